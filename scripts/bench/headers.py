"""Header blocks (HPACK, RFC 7541) without a dynamic table: what one gRPC call needs of them.

A peer that may keep no table sends equal headers as equal octets: each kind is decoded once. What is not understood
ends the program.
"""

from __future__ import annotations

from functools import lru_cache

STATIC_FIELDS = 61
STATUS_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def header_block(fields: dict[str, str]) -> bytes:
    """`fields` as literals without indexing and without Huffman code (RFC 7541, section 6.2.2)."""
    strings = ((name.encode(), value.encode()) for name, value in fields.items())
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in strings)


def integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer whose first octet lends it `bits`, and where it ends (RFC 7541, section 5.1)."""
    value, at = block[at] & (1 << bits) - 1, at + 1
    if value < (1 << bits) - 1:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if block[at - 1] < 128:
            return value, at


def string(block: bytes, at: int) -> tuple[bytes | None, int]:
    """The string at `at`, None where it is in Huffman code, and where it ends (RFC 7541, section 5.2)."""
    coded = block[at] & 128
    length, at = integer(block, at, 7)
    return None if coded else block[at : at + length], at + length


def literal(block: bytes, at: int) -> tuple[bytes | None, bytes | None, int]:
    """Name and value of the literal at `at`, and where it ends; no name where that is one of the static table."""
    index, at = integer(block, at, 6 if block[at] & 64 else 4)
    name: bytes | None = None
    if index > STATIC_FIELDS:
        raise SystemExit("the server indexes headers dynamically, which it was told not to")
    if not index:
        name, at = string(block, at)
        if name is None:
            raise SystemExit("the server sends header names in Huffman code, which is not understood here")
    value, at = string(block, at)
    return name, value, at


@lru_cache(maxsize=256)
def grpc_status(block: bytes) -> str | None:
    """The name of the gRPC status in a header block; None where it holds none. The static table has no such field."""
    at, status = 0, None
    while at < len(block):
        if block[at] & 128 or block[at] & 0xE0 == 0x20:
            bits, most = (7, STATIC_FIELDS) if block[at] & 128 else (5, 0)  # an indexed field; a new table size
            number, at = integer(block, at, bits)
            if number > most:
                raise SystemExit("the server indexes headers dynamically, which it was told not to")
            continue
        name, value, at = literal(block, at)
        if name == b"grpc-status":
            if value is None:
                raise SystemExit("the server sends grpc-status in Huffman code, which is not understood here")
            status = STATUS_NAMES[int(value)]
    return status
