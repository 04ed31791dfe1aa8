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
    *((text, "invalid reference format") for text in (
        "", "busybox:", "busybox:-x", "busybox:" + "x" * 129, "busybox@sha256:12", "busybox@", "/busybox", "busybox/",
        "a//b", "a/../b", "-host.io/a", "host.io:port/a", "a b", "http://host/a", "a___b", "büsybox", "busybox\n",
        "busybox:1\n")),
    ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
    ("Registry/App", "invalid reference format: repository name (App) must be lowercase"),
    ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
    ("a" * 300, "repository name must not be more than 255 characters"),
    ("x" * 2000, "repository name must not be more than 255 characters"),
    (f"busybox@sha256:{'AB' * 32}", "invalid checksum digest format"),
    (f"busybox@sha256:{'ab' * 31}", "invalid checksum digest length"),
    (f"busybox@sha512:{'ab' * 64}", "unsupported digest algorithm")])
def test_what_is_no_reference_is_refused_as_docker_does(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.parse(text)
    assert caught.value.message == words


def test_a_tag_of_its_own_goes_before_the_one_in_the_name() -> None:
    assert str(names.with_tag("a:1", "2")) == "docker.io/library/a:2"
    assert str(names.with_tag("a", "")) == "docker.io/library/a:latest"
    assert str(names.with_tag_or_digest("a:1", DIGEST)) == f"docker.io/library/a@{DIGEST}"
    assert str(names.with_tag_or_digest("a:", "")) == "docker.io/library/a"
    for name, tag, words in (("a", "b:c", "invalid tag format"), ("a", "b c", "invalid tag format"),
                             (f"a@{DIGEST}", "b", "cannot import digest reference")):
        with pytest.raises(InvalidArgument) as caught:
            names.with_tag(name, tag)
        assert caught.value.message == words


@given(st.text(max_size=80))
def test_any_text_is_a_reference_that_reads_back_or_an_error(text: str) -> None:
    try:
        parsed = names.parse(text)
    except InvalidArgument:
        return
    assert names.parse(str(parsed)) == parsed
    assert names.parse(parsed.familiar()) == parsed
