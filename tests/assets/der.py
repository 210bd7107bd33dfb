"""DER by hand (X.690), so that tests can write what no library would."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SEQUENCE, SET, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x30, 0x31, 0x02, 0x03, 0x04, 0x05, 0x06
UTF8_STRING, PRINTABLE_STRING, UTC_TIME, GENERALIZED_TIME = 0x0C, 0x13, 0x17, 0x18


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element whose content is `parts`."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return tlv(OID, *(_base128(arc) for arc in (first * 40 + second, *rest)))


def bit_string(content: bytes) -> bytes:
    """A BIT STRING of whole octets."""
    return tlv(BIT_STRING, b"\x00", content)


def spki_of(key: object) -> bytes:
    """The SubjectPublicKeyInfo of a public key of any type that cryptography knows."""
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return spki


def elements(content: bytes) -> list[bytes]:
    """The elements that follow each other in `content`, each with its tag and length."""
    found = []
    while content:
        size = _size(content)
        found.append(content[:size])
        content = content[size:]
    return found


def inside(element: bytes) -> bytes:
    """The content of the one element that `element` is."""
    short = element[1] < 0x80
    return element[2 if short else 2 + (element[1] & 0x7F) :]


def _size(content: bytes) -> int:
    if content[1] < 0x80:
        return 2 + content[1]
    octets = content[1] & 0x7F
    return 2 + octets + int.from_bytes(content[2 : 2 + octets], "big")


def _base128(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))
