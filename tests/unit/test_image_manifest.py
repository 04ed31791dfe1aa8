"""Manifests, indexes and configs: well-formed, odd, and hostile."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.image import manifest as manifests
from hyperstack.pod.errors import InvalidArgument

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"mediaType": manifests.OCI_CONFIG, "digest": DIGEST, "size": 3}


def document(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def index(*platforms: str) -> manifests.Index:
    entries = [{"mediaType": manifests.OCI_MANIFEST, "digest": "sha256:" + f"{number:064x}", "size": 1,
                "platform": dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))}
               for number, text in enumerate(platforms)]
    parsed = manifests.parse(document(manifests=entries), manifests.OCI_INDEX)
    assert isinstance(parsed, manifests.Index)
    return parsed


@pytest.mark.parametrize("kind", [manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST, "", "application/json",
                                  f"{manifests.OCI_MANIFEST}; charset=utf-8"])
def test_a_manifest_under_each_of_its_names(kind: str) -> None:
    parsed = manifests.parse(document(config=CONFIG, layers=[{"digest": DIGEST, "size": 7}]), kind)
    assert isinstance(parsed, manifests.Manifest)
    assert parsed.layers[0].size == 7


@pytest.mark.parametrize(("data", "kind", "words"), [
    (b"{", "", "malformed"), (b"[]", "", "malformed"), (b"null", "", "malformed"),
    (b"[" * 100_000, "", "malformed"), (b'{"a":' * 100_000, "", "malformed"), (b" " * (4 << 20) + b"{}", "",
                                                                               "bytes long"),
    (document(), "", "neither"), (document(config=CONFIG, layers=[], manifests=[]), "", "neither"),
    (document(config=CONFIG, layers=[]), "text/html", "text/html was sent"),
    (document(config=CONFIG, layers=[]), manifests.OCI_INDEX, "is not the"),
    (document(manifests=[]), manifests.OCI_MANIFEST, "is not the"),
    (document(config=CONFIG, layers=[], mediaType=manifests.DOCKER_MANIFEST), manifests.OCI_MANIFEST, "calls itself"),
    (b'{"schemaVersion":1}', "", "schema version 1"),
    (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema version 1"),
    (document(config={**CONFIG, "digest": "sha256:../../etc/passwd"}, layers=[]), "", "digest"),
    (document(config={**CONFIG, "digest": "sha512:" + "0" * 128}, layers=[]), "", "digest"),
    (document(config={**CONFIG, "size": -1}, layers=[]), "", "size"),
    (document(config={**CONFIG, "size": 2**60}, layers=[]), "", "size"),
    (document(config={**CONFIG, "size": "3"}, layers=[]), "", "malformed"),
    (document(config={**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}, layers=[]), "", "helm"),
    (document(manifests=[{"digest": DIGEST, "size": 1}] * 1025), "", "more than 1024"),
    (b'{"mediaType":"\x9f"}', "", "malformed"),
    ('{"schemaVersion":2,"config":"\udc80"}'.encode("utf-8", "surrogateescape"), "", "malformed|neither"),
])
def test_bad_documents_are_refused(data: bytes, kind: str, words: str) -> None:
    with pytest.raises(manifests.DocumentError, match=words) as caught:
        manifests.parse(data, kind)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("there", "wanted", "chosen"), [
    (["linux/arm64", "linux/amd64"], "linux/amd64", 1), (["linux/arm64/v8"], "linux/arm64", 0),
    (["linux/arm/v6", "linux/arm/v7"], "linux/arm", 1), (["linux/arm/v6", "linux/arm/v7"], "linux/arm/v6", 0),
    (["linux/amd64/v3", "linux/amd64"], "amd64", 1), (["linux/amd64/v3"], "linux/amd64", 0),
    (["unknown/unknown", "windows/amd64"], "linux/amd64", None), (["linux/arm64/v9"], "linux/arm64/v8", None), ([],
                                                                                                                "amd64",
                                                                                                                None)])
def test_choice_of_a_platform(there: list[str], wanted: str, chosen: int | None) -> None:
    entry = manifests.choose(index(*there), manifests.parse_platform(wanted))
    assert (int(entry.digest[7:], 16) if entry else None) == chosen


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/AMD64", "linux/amd 64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a platform"):
        manifests.parse_platform(text)


def test_a_config_says_how_to_run() -> None:
    parsed = manifests.parse_config(json.dumps({
        "architecture": "arm64", "os": "linux", "variant": "v8", "created": "2024-02-03T04:05:06.789Z",
        "extra": {"kept": 1},
        "config": {"Env": ["A=b"], "Cmd": None, "Entrypoint": ["/x"], "User": "1:2", "WorkingDir": "/w",
                   "Labels": {"l": "v"},
                   "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGINT"},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]}}).encode())
    assert parsed.config.entrypoint == ("/x",)
    assert parsed.config.command == ()
    assert parsed.config.exposed_ports == ("53/udp", "80/tcp")
    assert parsed.config.volumes == ("/data",)
    assert (parsed.config.user, parsed.config.working_dir, parsed.config.stop_signal) == ("1:2", "/w", "SIGINT")
    assert parsed.config.env == ("A=b",)
    assert parsed.config.labels == {"l": "v"}
    assert parsed.raw["extra"] == {"kept": 1}
    assert str(parsed.platform) == "linux/arm64/v8"
    assert parsed.created_at == 1_706_933_106_789_000_000


@pytest.mark.parametrize(("rootfs", "words"), [
    ({"diff_ids": ["../../x"]}, "layer digests"), ({"type": "windows", "diff_ids": []}, "layer digests"),
    ({"diff_ids": 5}, "malformed")])
def test_bad_configs_are_refused(rootfs: object, words: str) -> None:
    with pytest.raises(manifests.DocumentError, match=words):
        manifests.parse_config(json.dumps({"rootfs": rootfs}).encode())


@pytest.mark.parametrize(("text", "expected"), [
    ("1970-01-01T00:00:01Z", 10**9), ("1970-01-01T01:00:00+01:00", 0), ("2024-13-01T00:00:00Z", 0), ("yesterday", 0),
    ("", 0),
    ("1970-01-01T00:00:00.000000001Z", 1), ("0001-01-01T00:00:00Z", -62135596800 * 10**9)])
def test_times(text: str, expected: int) -> None:
    assert manifests.parse_time(text) == expected


@given(st.binary(max_size=300), st.text(max_size=60))
def test_any_bytes_are_a_document_or_an_error(data: bytes, kind: str) -> None:
    for parse in (lambda: manifests.parse(data, kind), lambda: manifests.parse_config(data)):
        with contextlib.suppress(manifests.DocumentError):
            parse()
