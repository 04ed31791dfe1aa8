"""Whatever a manifest holds, the parser answers with pods or with one typed error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperstack.native_api import schema
from hyperstack.native_api.documents import parse_documents
from hyperstack.native_api.manifest import parse_manifests
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import PodSpec

_KINDS = (*schema.REFUSED, schema.EmptyDir, schema.Capabilities, schema.DnsConfig)
_NAMES = sorted({field.encode_name for kind in _KINDS for field in msgspec.structs.fields(kind)}
                | {name for refused in schema.REFUSED.values() for name in refused})
_WORDS = st.sampled_from(["Pod", "v1", "main", "work", "busybox", "Always", "TCP", "64Mi", "500m", "/x", "1e9", "A",
                          "$(A)$(A)", "Memory", "None", "10.0.0.1", "ALL", "\0", "\ud800", "Localhost"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | _WORDS
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.sampled_from(_NAMES) | st.text(max_size=8), inner, max_size=6), max_leaves=30)


def container(fields: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "main", "image": "busybox", **fields}],
                     "volumes": [{"name": "work", "emptyDir": {}}]}}


def check(document: Any) -> None:
    """Parsed, the pod survives the store's encoding; refused, the error is a sentence."""
    caught = None
    try:
        for found in parse_manifests(json.dumps(document).encode()):
            assert msgspec.json.decode(msgspec.json.encode(found.spec), type=PodSpec) == found.spec
    except InvalidArgument as error:
        caught = error
    assert caught is None or 0 < len(str(caught)) < 4096


@given(_VALUES)
def test_any_value_as_a_document(value: Any) -> None:
    check(value)


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=5))
@settings(max_examples=300)
def test_any_fields_of_a_spec(fields: dict[str, Any]) -> None:
    document = container({})
    document["spec"].update(fields)
    check(document)


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=5))
@settings(max_examples=300)
def test_any_fields_of_a_container(fields: dict[str, Any]) -> None:
    check(container(fields))


@given(st.text(alphabet="abk:-[]{}&*!|>'\"#%@`,?\n\t 01~.\\", max_size=200) | st.text(max_size=100))
@settings(max_examples=500)
def test_any_text(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        parse_manifests(text.encode(errors="surrogatepass"))


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        parse_documents(raw)


@given(st.recursive(st.none() | st.booleans() | st.integers(-10**15, 10**15) | st.text(max_size=10).filter(
    lambda text: "\0" not in text), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=5).filter(lambda text: "\0" not in text), inner, max_size=3), max_leaves=10).filter(
            lambda value: isinstance(value, dict)))
def test_json_is_read_as_json(value: Any) -> None:
    assert parse_documents(json.dumps(value).encode()) == [value]
