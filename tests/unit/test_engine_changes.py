"""Dockerfile-like changes of an import."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.engine.builds.changes import apply_changes
from hyperstack.pod.errors import InvalidArgument


def test_each_instruction() -> None:
    assert apply_changes([
        'CMD ["a", "b"]', "entrypoint /run me", 'ENV A=1 B="two words"', "ENV C three four", "ENV A=9",
        "EXPOSE 80 53/UDP",
        "LABEL x=y", 'VOLUME ["/data"]', "VOLUME /a /b", "USER 1:2", "WORKDIR /w", "STOPSIGNAL SIGINT"]) == {
            "Cmd": ["a", "b"], "Entrypoint": ["/bin/sh", "-c", "/run me"], "Env": ["A=9", "B=two words",
                                                                                   "C=three four"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"x": "y"}, "Volumes": {"/data": {}, "/a": {},
                                                                                            "/b": {}},
            "User": "1:2", "WorkingDir": "/w", "StopSignal": "SIGINT"}


@pytest.mark.parametrize(("change", "words"), [
    ("RUN true", "RUN is not a valid change command"), ("", "file with no instructions"),
    ("FOO x", "FOO is not a valid change command"), ("EXPOSE http", "Invalid containerPort: http"),
    ("EXPOSE 99999", "Invalid containerPort: 99999"), ("ENV =x", "ENV names can not be blank"),
    ("ENV", "ENV requires at least one argument"), ("ENV A", "ENV must have two arguments"),
    ("ENV A=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
    ('ENV A="open', 'failed to process "\\"open": unexpected end of statement while looking for matching double-quote'),
    ("LABEL  ", "LABEL requires at least one argument"), ("USER", "USER requires exactly one argument"),
    ("STOPSIGNAL FOO", "invalid signal: FOO"), ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)')])
def test_what_is_no_change_is_refused_as_docker_does(change: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        apply_changes([change])
    assert caught.value.message == words


@given(st.lists(st.sampled_from([
    "CMD", "ENV", "LABEL", "EXPOSE", "ONBUILD", "HEALTHCHECK", "VOLUME", " ", "a", "=", "[", "]", '"', "'", "\\", "$",
    "{", "}", "80", "-", "/", "\n", "\0", "\ud800"]) | st.text(max_size=4), max_size=30).map("".join))
def test_any_text_is_applied_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert json.dumps(apply_changes([text], {"Env": ["A=1"]}))


def test_changes_are_made_to_what_there_is() -> None:
    base = {"Env": ["A=1", "B=2"], "Labels": {"x": "y"}, "Cmd": ["old"], "User": "u"}
    assert apply_changes(["ENV B=3", "LABEL z=1"], base) == {
        "Env": ["A=1", "B=3"], "Labels": {"x": "y", "z": "1"}, "Cmd": ["old"], "User": "u"}
    assert apply_changes(['ENTRYPOINT ["e"]'], base).get("Cmd") is None
    assert apply_changes(['CMD ["new"]', 'ENTRYPOINT ["e"]'], base)["Cmd"] == ["new"]
    assert base["Env"] == ["A=1", "B=2"]
