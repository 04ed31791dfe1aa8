"""References as Docker reads and shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.image import names
from hyperstack.pod.errors import InvalidArgument

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(("text", "canonical", "familiar"), [
    ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
    ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("user/app", "docker.io/user/app:latest", "user/app:latest"),
    ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
    ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
    ("quay.io/x/y", "quay.io/x/y:latest", "quay.io/x/y:latest"),
    ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
    ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
    (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
    (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
    ("a__b/c-d.e_f", "docker.io/a__b/c-d.e_f:latest", "a__b/c-d.e_f:latest"),
    ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
])
def test_canonical_and_familiar_forms(text: str, canonical: str, familiar: str) -> None:
    parsed = names.parse(text)
    assert str(parsed) == canonical
    assert parsed.familiar() == familiar
    assert names.parse(canonical) == parsed
    assert names.parse(familiar) == parsed


@pytest.mark.parametrize(("text", "words"), [
    ("", "empty"), ("Busybox", "must be lowercase"), ("busybox:", "tag"), ("busybox:-x", "tag"),
    ("busybox:" + "x" * 129, "tag"),
    ("busybox@sha256:12", "digest"), ("busybox@", "digest"), (f"busybox@{DIGEST.upper()}", "digest"),
    ("a" * 64, "64-byte hexadecimal"), ("/busybox", "not a host|not a repository"), ("busybox/", "repository name"),
    ("a//b", "repository name"), ("a/../b", "repository name"), ("-host.io/a", "not a host"), ("host.io:port/a",
                                                                                               "not a host"),
    ("a b", "repository name"), ("a" * 300, "255"), ("x" * 600, "longer than"), ("http://host/a",
                                                                                 "not a host|not a repository"),
    ("a___b", "repository name"), ("büsybox", "repository name"), ("busybox\n", "repository name"), ("busybox:1\n",
                                                                                                     "tag")])
def test_what_is_no_reference_is_named(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        names.parse(text)
    assert caught.value.field == "image"


@given(st.text(max_size=80))
def test_any_text_is_a_reference_that_reads_back_or_an_error(text: str) -> None:
    try:
        parsed = names.parse(text)
    except InvalidArgument:
        return
    assert names.parse(str(parsed)) == parsed
    assert names.parse(parsed.familiar()) == parsed
