"""What is said of bodies that are no JSON, or not of the right types: in Go's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.docker_api.bodies import ConnectBody, NetworkCreateBody, VolumeCreateBody
from hyperstack.http import body
from hyperstack.http.go_json import GoSyntaxError, end_of_value
from hyperstack.http.media_types import require_json
from hyperstack.pod.errors import InvalidArgument


@pytest.mark.parametrize(("raw", "words"), [
    (b"{", "unexpected EOF"), (b"[", "unexpected EOF"), (b"nul", "unexpected EOF"), (b'{"Name":"x', "unexpected EOF"),
    (b'{"a":"\\u12', "unexpected EOF"), (b"-", "unexpected EOF"),
    (b'{"a":}', "invalid character '}' looking for beginning of value"),
    (b"[1,]", "invalid character ']' looking for beginning of value"),
    (b'{"a"}', "invalid character '}' after object key"),
    (b"{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"\xff", r"invalid character '\xff' looking for beginning of value"),
    (b"\xef\xbb\xbf{}", r"invalid character '\ufeff' looking for beginning of value"),
    (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
    (b'{"a":"\x01"}', r"invalid character '\x01' in string"), (b'{"a":"b\nc"}', r"invalid character '\n' in string"),
    (b'{"a":"\\x"}', r"invalid escape sequence `\x` in string"),
    (b'{"a":"\\u12x4"}', r"invalid escape sequence `\u12x4` in string"),
    (b'{"a":01}', "invalid character '1' after object key:value pair"),
    (b'{"a":1e}', "invalid character '}' in numeric literal"), (b"-x", "invalid character 'x' in numeric literal"),
    (b'{"a":1.}', "invalid character '}' in numeric literal"),
    (b"1x", "json: cannot unmarshal number into Go value of type network.CreateRequest"),
    (b"[]", "json: cannot unmarshal array into Go value of type network.CreateRequest"),
    (b'{"name":1}', "json: cannot unmarshal number into Go struct field CreateRequest.name of type string"),
    (b'{"Labels":{"a":[]}}', "json: cannot unmarshal array into Go struct field CreateRequest.Labels.a of type string"),
    (b'{"IPAM":{"Config":{}}}',
     "json: cannot unmarshal object into Go struct field CreateRequest.IPAM.Config of type []network.IPAMConfig"),
    (b'{"IPAM":{"Config":["x"]}}',
     "json: cannot unmarshal string into CreateRequest.IPAM.Config.0 of type network.IPAMConfig"),
    (b'{"EnableIPv4":"x"}', "json: cannot unmarshal string into Go struct field CreateRequest.EnableIPv4 of type bool"),
])
def test_what_is_wrong_with_a_body_is_said_in_gos_words(raw: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        body.decode(raw, NetworkCreateBody)
    assert caught.value.message == f"invalid JSON: {words}"


@pytest.mark.parametrize(("value", "words"), [
    ("a", "string"), (1.5, "number 1.5"), (2**64, f"number {2**64}"), (True, "bool"), ({}, "object")])
def test_a_number_that_does_not_fit_is_shown(value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=r"GwPriority of type int\Z") as caught:
        body.decode(json.dumps({"EndpointConfig": {"GwPriority": value}}).encode(), ConnectBody)
    assert f"unmarshal {words} into" in caught.value.message


@pytest.mark.parametrize("raw", [b"{}x", b"{} {}", b"null,", b'{"Name":"a"}"'])
def test_nothing_may_follow_the_document(raw: bytes) -> None:
    with pytest.raises(InvalidArgument, match="unexpected content after JSON"):
        body.decode(raw, VolumeCreateBody)


@pytest.mark.parametrize("raw", [b"{} ]", b"{}}", b'{"\xff":1}', b"null", b"{}\n"])
def test_what_go_overlooks_is_overlooked(raw: bytes) -> None:
    assert body.decode(raw, VolumeCreateBody) == VolumeCreateBody()


def test_a_large_body_is_not_gone_through_for_its_mistake() -> None:
    with pytest.raises(InvalidArgument, match=r"\Ainvalid JSON: "):
        body.decode(b"[" * 1_000_000, VolumeCreateBody)


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                      | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(values, st.text(" \t\r\n", max_size=3), st.sampled_from(["", " ", ",x", "]", "}", '"']), st.booleans())
def test_the_end_of_any_value_is_found(value: Any, space: str, rest: str, escaped: bool) -> None:
    text = space + json.dumps(value, ensure_ascii=escaped)
    assert end_of_value(text + rest) == len(text)


@given(st.text('{}[]",:\\/u0123456789eE+-.truefalsnul \n\x01é', max_size=30))
def test_a_text_has_a_value_or_a_mistake(text: str) -> None:
    try:
        end = end_of_value(text)
    except GoSyntaxError:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
    else:
        json.loads(text[:end])


@pytest.mark.parametrize("header", [
    "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;", " application/json",
    'application/json; a="b;c"'])
def test_types_that_are_json(header: str) -> None:
    require_json(header, empty=False)


@pytest.mark.parametrize(("header", "words"), [
    ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
    ("application", "unsupported Content-Type header (application): must be 'application/json'"),
    ("", "malformed Content-Type header (): mime: no media type"),
    ("/json", "malformed Content-Type header (/json): mime: no media type"),
    ("a b/c", "malformed Content-Type header (a b/c): mime: expected slash after first token"),
    ("application/", "malformed Content-Type header (application/): mime: expected token after slash"),
    ("application/json x", "malformed Content-Type header (application/json x): mime: unexpected content after media "
                           "subtype"),
    ("application/json; charset", "malformed Content-Type header (application/json; charset): mime: invalid media "
                                  "parameter")])
def test_types_that_are_not(header: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        require_json(header, empty=False)
    assert caught.value.message == words


def test_no_body_needs_no_type() -> None:
    require_json("", empty=True)
    with pytest.raises(InvalidArgument, match="unsupported"):
        require_json("text/plain", empty=True)
