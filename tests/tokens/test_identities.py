"""Which identity a token's claims give, and that no claims can give another shape of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.spiffe.ids import TrustDomain
from meshca.tokens.identities import IdentityMapping, PathTemplate, identity_mapping
from meshca.tokens.verification import VerifiedClaims

DOMAIN = TrustDomain("example.org")
KUBERNETES = identity_mapping("kubernetes")


def verified(**claims: object) -> VerifiedClaims:
    subject = claims.get("sub")
    assert subject is None or isinstance(subject, str)
    return VerifiedClaims("https://issuer.example", subject, ("meshca",), datetime(2026, 6, 1, tzinfo=UTC), claims)


def refusal(mapping: IdentityMapping, claims: VerifiedClaims) -> str:
    with pytest.raises(MeshcaError) as caught:
        mapping.spiffe_id(claims, DOMAIN)
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    return caught.value.message


@pytest.mark.parametrize(
    ("subject", "path"),
    [
        ("system:serviceaccount:shop:cart", "/ns/shop/sa/cart"),
        ("system:serviceaccount:a:b", "/ns/a/sa/b"),
        ("system:serviceaccount:kube-system:a.b-c.d1", "/ns/kube-system/sa/a.b-c.d1"),
        (f"system:serviceaccount:{'n' * 63}:{'s' * 63}", f"/ns/{'n' * 63}/sa/{'s' * 63}"),
    ],
)
def test_a_service_account_becomes_its_namespace_and_name(subject: str, path: str) -> None:
    assert str(KUBERNETES.spiffe_id(verified(sub=subject), DOMAIN)) == f"spiffe://example.org{path}"


FORM = "is not system:serviceaccount:<ns>:<sa>"
NO_LABEL = "which is no DNS label"
NO_SUBDOMAIN = "which is no DNS subdomain"

NO_SERVICE_ACCOUNT = {
    "": FORM,
    "cart": FORM,
    "system:serviceaccount:shop": FORM,
    "system:serviceaccount:shop:cart:more": FORM,
    "system:node:shop:cart": FORM,
    "system:serviceaccounts:shop:cart": FORM,
    " system:serviceaccount:shop:cart": FORM,
    "SYSTEM:serviceaccount:shop:cart": FORM,
    "system:serviceaccount::cart": NO_LABEL,
    "system:serviceaccount:shop:": NO_SUBDOMAIN,
    "system:serviceaccount:..:cart": NO_LABEL,
    "system:serviceaccount:shop:..": NO_SUBDOMAIN,
    "system:serviceaccount:shop:.": NO_SUBDOMAIN,
    "system:serviceaccount:shop:a..b": NO_SUBDOMAIN,
    "system:serviceaccount:a/b:cart": NO_LABEL,
    "system:serviceaccount:shop:cart/../../root": NO_SUBDOMAIN,
    "system:serviceaccount:shop:a%2fb": NO_SUBDOMAIN,
    "system:serviceaccount:shop:cart\n": NO_SUBDOMAIN,
    "system:serviceaccount:shop\n:cart": NO_LABEL,
    "system:serviceaccount:shop:Cart": NO_SUBDOMAIN,
    "system:serviceaccount:shop.a:cart": NO_LABEL,
    "system:serviceaccount:-shop:cart": NO_LABEL,
    "system:serviceaccount:shop:cart-": NO_SUBDOMAIN,
    "system:serviceaccount:shop:a,b": NO_SUBDOMAIN,
    "system:serviceaccount:shop:cärt": NO_SUBDOMAIN,
    "system:serviceaccount:shop:сart": NO_SUBDOMAIN,  # noqa: RUF001  # a Cyrillic letter that looks Latin
    "system:serviceaccount:shop:cart\u0661": NO_SUBDOMAIN,
    f"system:serviceaccount:{'n' * 64}:cart": NO_LABEL,
    f"system:serviceaccount:shop:{'s' * 64}": NO_SUBDOMAIN,
    f"system:serviceaccount:shop:{'.'.join(['s' * 50] * 5)}": NO_SUBDOMAIN,
}


@pytest.mark.parametrize("subject", NO_SERVICE_ACCOUNT)
def test_no_other_subject_is_a_service_account(subject: str) -> None:
    assert refusal(KUBERNETES, verified(sub=subject)).endswith(NO_SERVICE_ACCOUNT[subject])


def test_a_token_without_subject_is_no_service_account() -> None:
    assert refusal(KUBERNETES, verified()) == "token: sub is missing"


def test_a_template_is_filled_with_claims_and_nested_claims() -> None:
    template = identity_mapping("/ci/{repository}/env/{deploy.target.name}")
    claims = verified(repository="Shop_1.x", deploy={"target": {"name": "prod"}})
    assert str(template.spiffe_id(claims, DOMAIN)) == "spiffe://example.org/ci/Shop_1.x/env/prod"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a/b", "token: claim repository has 'a/b', which is no SPIFFE id segment"),
        ("..", "token: claim repository has '..', which is no SPIFFE id segment"),
        (".", "token: claim repository has '.', which is no SPIFFE id segment"),
        ("", "token: claim repository has '', which is no SPIFFE id segment"),
        ("a%2Fb", "token: claim repository has 'a%2Fb', which is no SPIFFE id segment"),
        ("a b", "token: claim repository has 'a b', which is no SPIFFE id segment"),
        ("a\n", "token: claim repository has 'a\\n', which is no SPIFFE id segment"),
        ("{repository}", "token: claim repository has '{repository}', which is no SPIFFE id segment"),
        ("ä", "token: claim repository has 'ä', which is no SPIFFE id segment"),
        ("\ud800", "token: claim repository has '\\ud800', which is no SPIFFE id segment"),
        ("a" * 254, "token: claim repository is 254 long: at most 253 are allowed"),
        (1, "token: claim repository is not a string"),
        (True, "token: claim repository is not a string"),
        (None, "token: claim repository is not a string"),
        (["a"], "token: claim repository is not a string"),
        ({"a": "b"}, "token: claim repository is not a string"),
    ],
)
def test_a_claim_that_is_no_segment_is_refused_and_never_split(value: object, reason: str) -> None:
    assert refusal(PathTemplate("/repo/{repository}"), verified(repository=value)) == reason


@pytest.mark.parametrize("claims", [{}, {"a": {}}, {"a": "b"}, {"a": ["b"]}, {"a.b": "x"}, {"a": {"c": "x"}}])
def test_a_claim_that_is_not_there_is_refused(claims: dict[str, object]) -> None:
    assert refusal(PathTemplate("/x/{a.b}"), verified(**claims)) == "token: claim a.b is missing"


def test_an_id_that_grows_too_long_is_refused() -> None:
    template = PathTemplate("/" + "/".join(["{a}"] * 9))
    assert "SPIFFE id is 2306 bytes long" in refusal(template, verified(a="a" * 253))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is neither 'kubernetes' nor a path"),
        ("Kubernetes", "is neither 'kubernetes' nor a path"),
        ("{a}", "is neither 'kubernetes' nor a path"),
        ("spiffe://example.org/{a}", "is neither 'kubernetes' nor a path"),
        ("/", "segment ''"),
        ("/a//{b}", "segment ''"),
        ("/{a}/", "segment ''"),
        ("/../{a}", "segment '..'"),
        ("/./{a}", "segment '.'"),
        ("/x/{}", "segment '{}'"),
        ("/x/{a", "segment '{a'"),
        ("/x/a}", "segment 'a}'"),
        ("/x/{{a}}", "segment '{{a}}'"),
        ("/x/{a}{b}", "segment '{a}{b}'"),
        ("/x/pre-{a}", "segment 'pre-{a}'"),
        ("/x/{a..b}", "segment '{a..b}'"),
        ("/x/{.a}", "segment '{.a}'"),
        ("/x/{a.}", "segment '{a.}'"),
        ("/x/{a[0]}", "segment '{a[0]}'"),
        ("/x/{a!r}", "segment '{a!r}'"),
        ("/x/{a:>9}", "segment '{a:>9}'"),
        ("/x/{a b}", "segment '{a b}'"),
        ("/x y/{a}", "segment 'x y'"),
        ("/x%20y/{a}", "segment 'x%20y'"),
        ("/x/{a}\n", "segment '{a}\\n'"),
        ("/x/{ä}", "segment '{ä}'"),
        ("/constant", "has no {claim}"),
    ],
)
def test_a_template_that_is_no_path_of_literals_and_claims_is_refused_at_once(text: str, problem: str) -> None:
    with pytest.raises(MeshcaError, match=re.escape(problem)) as caught:
        identity_mapping(text)
    assert caught.value.kind is ErrorKind.INVALID


names = st.sampled_from(["a", "b", "c.d"])
segments = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True) | names.map(lambda name: "{" + name + "}")
templates = st.lists(segments, min_size=1, max_size=5).map(lambda parts: "/" + "/".join([*parts, "{a}"]))
values = st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9._/-]{1,8}", fullmatch=True) | st.integers() | st.none()


@given(templates, values, values, values)
def test_no_claims_give_an_id_outside_the_templates_shape(text: str, a: object, b: object, d: object) -> None:
    claims = verified(a=a, b=b, c={"d": d})
    by_name = {"{a}": a, "{b}": b, "{c.d}": d}
    expected = [by_name.get(segment, segment) for segment in text[1:].split("/")]
    try:
        path = PathTemplate(text).spiffe_id(claims, DOMAIN).path
    except MeshcaError:
        return
    assert path[1:].split("/") == expected


@given(st.text(max_size=40) | st.text(":abc.-/", max_size=20).map(lambda rest: "system:serviceaccount:" + rest))
def test_no_subject_gives_anything_but_a_namespace_and_a_service_account(subject: str) -> None:
    try:
        path = KUBERNETES.spiffe_id(verified(sub=subject), DOMAIN).path
    except MeshcaError:
        return
    _, ns, namespace, sa, account = path.split("/")
    assert (ns, sa) == ("ns", "sa")
    assert subject == f"system:serviceaccount:{namespace}:{account}"


@given(st.text(max_size=30))
def test_any_template_text_is_parsed_or_refused(text: str) -> None:
    try:
        identity_mapping(text)
    except MeshcaError as error:
        refused = error.kind
    else:
        return
    assert refused is ErrorKind.INVALID
