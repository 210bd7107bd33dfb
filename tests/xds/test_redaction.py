"""NACK texts: useful ones stay, nothing of a key does."""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from meshca.xds.redaction import MAX_REASON, REDACTED, redact_nack

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
PEMS = [
    key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
    for key in (EC_KEY, RSA_KEY)
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
]
DER = EC_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
PEM = PEMS[0]
BODY = "".join(PEM.splitlines()[1:-1])

# How a key may stand in a text: as it is, as protobuf's text form, on one line, as hex, without its header.
SPELLINGS = {
    "as it is": PEM,
    "escaped line ends": PEM.replace("\n", "\\n"),
    "carriage returns": PEM.replace("\n", "\r\n"),
    "blanks for line ends": PEM.replace("\n", " "),
    "tabs for line ends": PEM.replace("\n", "\t"),
    "header cut off": PEM[30:],
    "header cut off, escaped": PEM[30:].replace("\n", "\\n"),
    "header cut off, blanks": PEM[30:].replace("\n", " "),
    "footer cut off": PEM[:-30],
    "body alone": BODY,
    "short lines": "\n".join(BODY[i : i + 20] for i in range(0, len(BODY), 20)),
    "short chunks and blanks": " ".join(BODY[i : i + 20] for i in range(0, len(BODY), 20)),
    "zero bytes between": "\0".join(BODY),
    "zero-width characters between": "\u200b".join(BODY),
    "base64url": base64.urlsafe_b64encode(DER).decode(),
    "hex": DER.hex(),
    "hex by colons": DER.hex(":"),
    "hex by blanks": DER.hex(" "),
    "hex as C has it": ", ".join(f"{byte:#04x}" for byte in DER),
    "decimal": " ".join(map(str, DER)),
    "octal escapes": "".join(f"\\{byte:03o}" for byte in DER),
}


def leaked(text: str) -> bool:
    """Whether 24 characters of a key in a row are still there, however they are broken up."""
    joined = "".join(c for c in text.replace("\\n", "").replace("0x", "") if c.isalnum() or c in "+/=_-")
    bodies = [BODY, DER.hex(), "".join(map(str, DER)), base64.urlsafe_b64encode(DER).decode()]
    return any(body[i : i + 24] in joined for body in bodies for i in range(len(body) - 24))


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("frame", ["{}", "before {} after", 'inline_bytes: "{}"', "x{}y", "a: b: {}\nc"])
def test_no_spelling_of_a_key_gets_through(spelling: str, frame: str) -> None:
    kept = redact_nack(frame.format(spelling))
    assert not leaked(kept)
    assert "PRIVATE KEY" not in kept
    assert REDACTED in kept


@pytest.mark.parametrize("pem", PEMS)
def test_the_echo_of_a_refused_secret_is_dropped_and_the_constraint_stays(pem: str) -> None:
    escaped = pem.replace("\n", "\\n")
    text = (
        f'goo.gle/debugproto  name: "default" tls_certificate {{ private_key {{ inline_bytes: "{escaped}" }} }}'
        ": Proto constraint validation failed (SecretValidationError.TlsCertificate: embedded message failed)"
    )
    expected = "Proto constraint validation failed (SecretValidationError.TlsCertificate: embedded message failed)"
    assert redact_nack(text) == expected


def test_an_echo_that_holds_the_marker_itself_is_dropped_to_its_last_occurrence() -> None:
    text = f"a: Proto constraint validation failed {PEM}: Proto constraint validation failed (x)"
    assert redact_nack(text) == "Proto constraint validation failed (x)"


def test_a_key_after_the_marker_does_not_get_through() -> None:
    kept = redact_nack(f"a: Proto constraint validation failed (SecretValidationError: {PEM})")
    assert kept == f"Proto constraint validation failed (SecretValidationError: {REDACTED}"


@pytest.mark.parametrize("name", ["PRIVATE KEY", "RSA PRIVATE  KEY", "ENCRYPTED PRIVATE\nKEY", "EC PRIVATE\x00 KEY"])
def test_nothing_is_kept_from_the_name_of_a_private_key_on(name: str) -> None:
    kept = redact_nack(f"cannot parse {name}: c2VjcmV0")
    assert kept.startswith("cannot parse ")
    assert kept.endswith(REDACTED)


@pytest.mark.parametrize(
    "text",
    [
        "Failed to load private key from <inline>, Cause: error:0b000074:X.509 routines:KEY_VALUES_MISMATCH",
        "Failed to load certificate chain from <inline>",
        "Failed to load incomplete private key from path: ",
        "Invalid TLS context has neither subject CN nor SAN names",
        "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
        "only RSA certificates with 2048-bit or larger keys are supported",
        "No trust domains found in SPIFFE bundle",
    ],
)
def test_what_envoy_says_without_secrets_stays(text: str) -> None:
    assert redact_nack(text) == text.strip()


def test_the_text_is_one_printable_line() -> None:
    assert redact_nack("a\nb\r\n\tc\x1b[31m\x00d\u202ee\u2028f") == "a b c[31mde f"


def test_the_text_is_bounded() -> None:
    assert len(redact_nack("word " * 10_000)) == MAX_REASON
    assert redact_nack("word " * 10_000).endswith("…")


def test_an_empty_text_stays_empty() -> None:
    assert redact_nack("") == ""


@pytest.mark.parametrize(
    "text",
    [
        "A" * 4_000_000,
        "0" * 4_000_000,
        ("0," * 9 + "x ") * 200_000,
        "\\" * 4_000_000,
        "A b" * 1_000_000,
        ("A" * 39 + " ") * 100_000,
    ],
)
def test_a_huge_text_costs_little(text: str) -> None:
    started = time.process_time()
    redact_nack(text)
    assert time.process_time() - started < 1


@given(st.text(), st.text(), st.sampled_from(list(SPELLINGS.values())), st.integers(0, 60), st.integers(0, 60))
def test_no_part_of_a_key_gets_through_whatever_surrounds_it(
    before: str, after: str, spelling: str, head: int, tail: int
) -> None:
    kept = redact_nack(before + spelling[head : len(spelling) - tail] + after)
    assert not leaked(kept)
    assert len(kept) <= MAX_REASON
    assert kept.isprintable()


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_nack(text)
    assert redact_nack(once) == once
