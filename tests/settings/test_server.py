"""What a server may be told, and what it refuses to start with."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import ErrorKind, MeshcaError
from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm, KeyFamily
from meshca.settings.server import LeafSettings, RevocationSettings, ServerSettings, parse_listen_address
from meshca.settings.sources import load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MESHCA_")]:
        monkeypatch.delenv(name)


def load(toml: str, directory: Path) -> ServerSettings:
    config = directory / "server.toml"
    config.write_text(toml, "utf-8")
    return load_settings(ServerSettings, {"data_dir": "/d"}, config)


def refusal(toml: str, directory: Path) -> str:
    with pytest.raises(MeshcaError) as refused:
        load(toml, directory)
    assert refused.value.kind is ErrorKind.INVALID
    return refused.value.message


def test_the_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    settings = load("", tmp_path)
    assert (settings.token_listen, settings.mtls_listen, settings.http_listen) == (
        "0.0.0.0:15012",
        "0.0.0.0:15013",
        "127.0.0.1:15014",
    )
    assert settings.leaf == LeafSettings(
        default_ttl=timedelta(hours=1),
        max_ttl=timedelta(hours=24),
        backdate=timedelta(minutes=1),
        key_types=frozenset({KeyFamily.RSA, KeyFamily.P256, KeyFamily.P384}),
    )
    assert (settings.issuer.ttl, settings.issuer.prepare_at, settings.issuer.activate_at) == (
        timedelta(days=30),
        1 / 2,
        5 / 6,
    )


REFUSED = {
    "[leaf]\nmax_ttl = '6d'": (
        "configuration: leaf.max_ttl is 6 days, 0:00:00, but rotation guarantees only 5 days, 0:00:00"
        " (issuer.ttl 30 days, 0:00:00 x (1 - activate_at 0.833)): lower leaf.max_ttl or raise issuer.ttl"
    ),
    "[issuer]\nttl = '1d'": (
        "configuration: leaf.max_ttl is 1 day, 0:00:00, but rotation guarantees only 4:00:00"
        " (issuer.ttl 1 day, 0:00:00 x (1 - activate_at 0.833)): lower leaf.max_ttl or raise issuer.ttl"
    ),
    "[leaf]\nmax_ttl = '91d'\n[issuer]\nttl = '1000d'": (
        "configuration: leaf: max_ttl is 91 days, 0:00:00: at most 90d are allowed"
    ),
    "[leaf]\ndefault_ttl = '2d'": (
        "configuration: leaf: default_ttl is 2 days, 0:00:00: it must lie between 1s and max_ttl (1 day, 0:00:00)"
    ),
    "[leaf]\ndefault_ttl = 0": (
        "configuration: leaf: default_ttl is 0:00:00: it must lie between 1s and max_ttl (1 day, 0:00:00)"
    ),
    "[leaf]\nbackdate = -1": (
        "configuration: leaf.backdate: Input should be greater than or equal to datetime.timedelta(0)"
    ),
    "[leaf]\nkey_types = []": "configuration: leaf: key_types must not be empty",
    "[leaf]\nkey_types = ['p224']": (
        "configuration: leaf.key_types.0: Input should be 'rsa', 'p256', 'p384', 'p521' or 'ed25519'"
    ),
    "[issuer]\nprepare_at = 0.9": "configuration: issuer: prepare_at must lie before activate_at",
    "[issuer]\nactivate_at = 1.0": "configuration: issuer.activate_at: Input should be less than 1",
    "tick = '21s'\n[leaf]\nmax_ttl = '10s'\ndefault_ttl = '10s'\n[issuer]\nttl = '1m'": (
        "configuration: tick is 0:00:21: issuing CAs of 0:01:00 need one at least every 0:00:20"
    ),
    "[issuer]\nprepare_at = 0": "configuration: issuer.prepare_at: Input should be greater than 0",
    "[issuer]\nkey_type = 'ed25519'": (
        "configuration: issuer: key_type ed25519 cannot be an authority's: use one of p256, p384, rsa3072, rsa4096"
    ),
    "[issuer]\nkey_type = 'rsa2048'": (
        "configuration: issuer: key_type rsa2048 cannot be an authority's: use one of p256, p384, rsa3072, rsa4096"
    ),
    "[leaf]\nmax_ttl = '1s'\ndefault_ttl = '1s'\n[issuer]\nttl = '12s'": (
        "configuration: issuer: ttl is 0:00:12: each issuing CA would be due for replacement when it is made; raise it"
    ),
    "[revocation]\ncrl_url = 'https://ca.example.org/crl'": (
        "configuration: revocation.crl_url: 'https://ca.example.org/crl' is not http://host[:port][/path], such as"
        " http://ca.example.org:15014/crl: no https, which RFC 5280 discourages there, no slash at its end, at most 200"
        " characters"
    ),
    "tick = 0": "configuration: tick: Input should be greater than datetime.timedelta(0)",
    "server_certificate_ttl = '500ms'": (
        "configuration: server_certificate_ttl: Input should be greater than or equal to datetime.timedelta(seconds=1)"
    ),
    "workers = 0": "configuration: workers: Input should be greater than or equal to 1",
    "workers = 65": "configuration: workers: Input should be less than or equal to 64",
    "log_level = 'trace'": "configuration: log_level: Input should be 'debug', 'info', 'warning' or 'error'",
    "token_listen = 'x'": "configuration: token_listen: 'x' is not host:port, such as 127.0.0.1:15012",
    "[limits]\nburst = 0": "configuration: limits.burst: Input should be greater than or equal to 1",
    "[limits]\nrequests_per_second = 0": "configuration: limits.requests_per_second: Input should be greater than 0",
    "[limits]\nthreads = 257": "configuration: limits.threads: Input should be less than or equal to 256",
    "[limits]\nrate = 5": "configuration: limits.rate: unknown key",
    "[leaf]\nttl = 5": "configuration: leaf.ttl: unknown key",
    "[issuer]\nage = 5": "configuration: issuer.age: unknown key",
    "[[jwt_issuers]]\nissuer = 'a'\naudiences = ['b']": (
        "configuration: jwt_issuers.0: give exactly one of jwks_file and jwks_url"
    ),
    "[[jwt_issuers]]\nissuer = 'a'\naudiences = ['b']\njwks_file = '/f'\njwks_url = 'https://u'": (
        "configuration: jwt_issuers.0: give exactly one of jwks_file and jwks_url"
    ),
    "[[jwt_issuers]]\nissuer = 'a'\naudiences = ['b']\njwks_url = 'http://u'": (
        "configuration: jwt_issuers.0: jwks_url must start with https://"
    ),
    "[[jwt_issuers]]\nissuer = 'a'\naudiences = []\njwks_file = '/f'": (
        "configuration: jwt_issuers.0.audiences: Tuple should have at least 1 item after validation, not 0"
    ),
    "[[jwt_issuers]]\nissuer = ''\naudiences = ['b']\njwks_file = '/f'": (
        "configuration: jwt_issuers.0.issuer: String should have at least 1 character"
    ),
    "[[jwt_issuers]]\nissuer = 'a'\naudiences = ['b']\njwks_file = '/f'\naud = 1": (
        "configuration: jwt_issuers.0.aud: unknown key"
    ),
}


@pytest.mark.parametrize(
    "url",
    [
        "http://ca.example.org",
        "http://ca.example.org:15014/crl",
        "http://10.0.0.1:15014/a/b.c/d_e~f-g",
        "http://[2001:db8::1]:80/crl",
        "",
    ],
)
def test_a_place_for_revocation_lists(url: str) -> None:
    assert RevocationSettings(crl_url=url).crl_url == url


@pytest.mark.parametrize(
    "url",
    [
        "ca.example.org/crl",
        "ldap://ca.example.org/crl",
        "HTTP://ca.example.org/crl",
        "http:///crl",
        "http://",
        "http://ca.example.org/crl/",
        "http://ca.example.org//crl",
        "http://ca.example.org/crl?x=1",
        "http://ca.example.org/crl#x",
        "http://user@ca.example.org/crl",
        "http://user:word@ca.example.org/crl",
        "http://ca.example.org:0/crl",
        "http://ca.example.org:65536/crl",
        "http://ca.example.org:port/crl",
        "http://ca_example/crl",
        "http://*.example.org/crl",
        "http://ca..example.org/crl",
        "http://[::1/crl",
        "http://ca.example.org/cr l",
        "http://ca.example.org/cr\u00e9l",
        "http://ca.example.org/crl\n",
        f"http://ca.example.org/{'x' * 200}",
    ],
)
def test_no_place_for_revocation_lists(url: str) -> None:
    with pytest.raises(ValueError, match="crl_url"):
        RevocationSettings(crl_url=url)


@pytest.mark.parametrize("toml", REFUSED)
def test_refuses_and_names_the_remedy(toml: str, tmp_path: Path) -> None:
    assert refusal(toml, tmp_path) == REFUSED[toml]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    message = refusal("workers = 0\nfoo = 1\n[limits]\nburst = 0", tmp_path)
    assert message.removeprefix("configuration: ").splitlines() == [
        "workers: Input should be greater than or equal to 1",
        "limits.burst: Input should be greater than or equal to 1",
        "foo: unknown key",
    ]


def test_what_rotation_guarantees_exactly_is_allowed(tmp_path: Path) -> None:
    assert load("[leaf]\nmax_ttl = '5d'", tmp_path).leaf.max_ttl == timedelta(days=5)
    assert load("[issuer]\nttl = '6d'", tmp_path).issuer.ttl == timedelta(days=6)


@pytest.mark.parametrize("algorithm", CA_ALGORITHMS)
def test_an_issuer_may_have_any_key_of_an_authority(algorithm: KeyAlgorithm, tmp_path: Path) -> None:
    assert load(f"[issuer]\nkey_type = '{algorithm.value}'", tmp_path).issuer.key_type is algorithm


def test_flags_environment_and_file_name_the_same_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    config.write_text("token_listen = '127.0.0.1:1'\nmtls_listen = '127.0.0.1:1'\nhttp_listen = '127.0.0.1:1'", "utf-8")
    monkeypatch.setenv("MESHCA_MTLS_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("MESHCA_HTTP_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("MESHCA_DATA_DIR", "/from/environment")
    settings = load_settings(ServerSettings, {"http_listen": "127.0.0.1:3"}, config)
    assert (settings.token_listen, settings.mtls_listen, settings.http_listen, settings.data_dir) == (
        "127.0.0.1:1",
        "127.0.0.1:2",
        "127.0.0.1:3",
        Path("/from/environment"),
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("0.0.0.0:15012", ("0.0.0.0", 15012)),
        ("[::]:65535", ("::", 65535)),
        ("[::1]:1", ("::1", 1)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_reads_listening_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen_address(text) == address


NO_PORT = "{!r} is not host:port, such as 127.0.0.1:15012"
BRACKETS = "{!r}: brackets are for IPv6 addresses, and those need them: [::1]:15012"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", NO_PORT),
        ("15012", NO_PORT),
        ("127.0.0.1", NO_PORT),
        ("127.0.0.1:", NO_PORT),
        ("127.0.0.1:65536", NO_PORT),
        ("127.0.0.1:-1", NO_PORT),
        ("127.0.0.1:+1", NO_PORT),
        ("127.0.0.1: 1", NO_PORT),
        ("127.0.0.1:\u0661", NO_PORT),
        ("127.0.0.1:http", NO_PORT),
        ("[::1]", NO_PORT),
        ("::1:80", BRACKETS),
        ("[127.0.0.1]:80", BRACKETS),
        (":80", "{!r}: listen on an IP address or localhost, not on ''"),
        ("[localhost]:80", "{!r}: listen on an IP address or localhost, not on 'localhost'"),
        ("ca.example:80", "{!r}: listen on an IP address or localhost, not on 'ca.example'"),
        ("[::1:80", "{!r}: listen on an IP address or localhost, not on '[::1'"),
        ("127.1:80", "{!r}: listen on an IP address or localhost, not on '127.1'"),
        ("unix:/tmp/x", NO_PORT),
    ],
)
def test_refuses_other_addresses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(text))}$"):
        parse_listen_address(text)


@given(st.text(max_size=30) | st.ip_addresses().map(lambda address: f"{address}:80"))
def test_an_address_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        host, port = parse_listen_address(text)
    except ValueError:
        return
    assert parse_listen_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == (host, port)


@pytest.mark.parametrize(
    ("upstream", "problem"),
    [
        ("", "upstream: give exactly one of address and plugin"),
        ('address = "unix:/x"\nplugin = "corp"', "upstream: give exactly one of address and plugin"),
        ('address = "unix:/x"\noptions = { a = 1 }', "upstream: options are for a plug-in in process"),
        (
            'plugin = "corp"\nca_file = "/x"',
            "upstream: ca_file, cert_file, key_file and server_name go with an address",
        ),
        ('address = "h:1"\nca_file = "/x"', "upstream: give all of ca_file, cert_file and key_file, or none of them"),
        ('address = "unix:/x"\nadress = 1', "upstream.adress: unknown key"),
        ('address = "unix:/x"\ndeadline = "0s"', "upstream.deadline: "),
        ('address = "unix:/x"\npoll = "1ms"', "upstream.poll: "),
        ('address = "unix:/x"\n[authority]\nca_dir = "/c"', "give authority.ca_dir or upstream, not both"),
    ],
)
def test_an_upstream_that_makes_no_sense_is_refused(upstream: str, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(f"[upstream]\n{upstream}\n", tmp_path)


def test_an_upstream_in_process_has_options_of_its_own(tmp_path: Path) -> None:
    found = load('[upstream]\nplugin = "corp"\n[upstream.options]\nrole = "mesh"\n', tmp_path).upstream
    assert found is not None
    assert (found.name, found.options) == ("plug-in corp", {"role": "mesh"})
