"""JSON in which two readers could see different things is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.tokens.json_objects import parse_json_object

REFUSED: dict[str, tuple[bytes, str]] = {
    "twice the same member": (b'{"iss": "a", "iss": "b"}', "JSON that names a member twice"),
    "twice, spelt differently": (b'{"iss": "a", "i\\u0073s": "b"}', "JSON that names a member twice"),
    "twice, below": (b'{"a": [{"b": 1, "b": 1}]}', "JSON that names a member twice"),
    "NaN": (b'{"exp": NaN}', "JSON with NaN or Infinity"),
    "Infinity": (b'{"exp": -Infinity}', "JSON with NaN or Infinity"),
    "list": (b"[]", "JSON, but not an object"),
    "string": (b'"eyJ"', "JSON, but not an object"),
    "null": (b"null", "JSON, but not an object"),
    "empty": (b"", "not JSON"),
    "trailing text": (b"{} {}", "not JSON"),
    "UTF-16": ('{"a": 1}'.encode("utf-16-le"), "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "Latin-1": (b'{"a": "\xff"}', "not UTF-8"),
    "nested too deeply": (b'{"a":' + b"[" * 100_000, "JSON that is nested too deeply"),
    "a number of five thousand digits": (b'{"exp": ' + b"9" * 5000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json_object(data)
    assert str(caught.value) == reason


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_reads_every_object(value: dict[str, object]) -> None:
    assert parse_json_object(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_json_object(data)
