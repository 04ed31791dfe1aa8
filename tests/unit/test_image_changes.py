"""Dockerfile-like changes of an import."""

from __future__ import annotations

import pytest

from hyperstack.image.changes import apply_changes
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


@pytest.mark.parametrize("change", ["RUN true", "", "CMD", "EXPOSE http", "EXPOSE 99999", "ENV =x", "ENV A=b c",
                                    'ENV A="open', "LABEL  "])
def test_what_is_no_change_is_refused(change: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        apply_changes([change])
    assert caught.value.field == "changes"


def test_changes_are_made_to_what_there_is() -> None:
    base = {"Env": ["A=1", "B=2"], "Labels": {"x": "y"}, "Cmd": ["old"], "User": "u"}
    assert apply_changes(["ENV B=3", "LABEL z=1"], base) == {
        "Env": ["A=1", "B=3"], "Labels": {"x": "y", "z": "1"}, "Cmd": ["old"], "User": "u"}
    assert apply_changes(['ENTRYPOINT ["e"]'], base).get("Cmd") is None
    assert apply_changes(['CMD ["new"]', 'ENTRYPOINT ["e"]'], base)["Cmd"] == ["new"]
    assert base["Env"] == ["A=1", "B=2"]
