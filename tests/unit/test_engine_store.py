"""The store: what is written is there after any death of its writer."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from hyperstack.engine.events import EventBus
from hyperstack.engine.lookup import find
from hyperstack.engine.records import ContainerRecord, Event, PodRecord
from hyperstack.engine.store import Store
from hyperstack.pod.errors import HyperStackError, InvalidArgument, NameTaken, NotFound
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec


def container(ident: str, name: str, project: str = "default") -> ContainerRecord:
    return ContainerRecord(id=ident, pod_id="p", project=project, name=name, spec=ContainerSpec(image="busybox"),
                           image_id="sha256:0", image_config=ImageConfig(), created_at=1)


def pod(ident: str, name: str) -> PodRecord:
    return PodRecord(id=ident, name=name, project="default", spec=PodSpec(), implicit=False, created_at=1,
                     agent_key=b"\x00\xff")


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    written = [store.containers.put(container("aa", "one")), store.pods.put(pod("bb", "two"))]
    store.close()
    store = Store(tmp_path / "s.db")
    assert [store.containers.get("aa"), store.pods.get("bb")] == written


def test_a_killed_writer_loses_no_finished_write(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        store = Store(tmp_path / "s.db")
        for number in range(50):
            store.containers.put(container(f"{number:064x}", f"c{number}"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(Store(tmp_path / "s.db").containers) == 50


def test_a_transaction_that_fails_leaves_nothing_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")

    def half_done() -> None:
        with store.transaction():
            store.containers.put(container("aa", "one"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    store.close()
    assert Store(tmp_path / "s.db").containers.all() == []


def test_names_are_unique_within_a_project_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.containers.put(container("aa", "one"))
    with pytest.raises(NameTaken) as caught:
        store.containers.put(container("bb", "one"))
    assert caught.value.value == "one"
    store.containers.put(container("cc", "one", project="other"))
    store.containers.put(replace(container("aa", "one"), name="two"))
    store.containers.put(container("bb", "one"))
    assert find(store.containers, "container", "default", "one").id == "bb"


def test_lookup_prefers_ids_to_names_and_refuses_ambiguity(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    for ident, name in (("ab12", "x"), ("ab34", "ab12x")):
        store.containers.put(container(ident, name))
    assert find(store.containers, "container", "default", "ab12").name == "x"
    assert find(store.containers, "container", "default", "/ab12x").id == "ab34"
    assert find(store.containers, "container", "default", "ab3").id == "ab34"
    with pytest.raises(InvalidArgument):
        find(store.containers, "container", "default", "ab")
    with pytest.raises(NotFound):
        find(store.containers, "container", "other", "ab12")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(HyperStackError, match="newer hyperd"):
        Store(tmp_path / "s.db")


async def test_events_reach_only_their_project_and_outlive_the_daemon(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    bus = EventBus(store)
    live = bus.subscribe("default")
    bus.emit("container", "start", "a", "default")
    bus.emit("container", "start", "b", "other")
    bus.emit("container", "die", "a", "default")
    assert [(await anext(live)).action for _ in range(2)] == ["start", "die"]
    store.close()
    past = EventBus(Store(tmp_path / "s.db")).subscribe("default", since_ns=1, until_ns=2**62)
    assert [(await anext(past)).action for _ in range(2)] == ["start", "die"]


def test_the_last_4096_events_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    with store.transaction():
        for number in range(1, 4096 + 256 + 1):  # they go by 256
            store.add_event(Event(kind="container", action="start", ident="a", attributes={}, time_ns=number,
                                  project="default"))
    with sqlite3.connect(tmp_path / "s.db") as connection:
        assert connection.execute("SELECT count(*), min(time_ns) FROM event").fetchone() == (4096, 257)


async def test_events_end_at_until(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.add_event(Event(kind="container", action="start", ident="a", attributes={}, time_ns=5, project="default"))
    store.add_event(Event(kind="container", action="die", ident="a", attributes={}, time_ns=10, project="default"))
    events = EventBus(store).subscribe("default", since_ns=1, until_ns=7)
    assert [e.action async for e in events] == ["start"]
