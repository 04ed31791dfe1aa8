"""What exists on this host, in SQLite, written before it is acted on.

The daemon is the only writer, so each table is mirrored in memory: reads are dictionary look-ups, a write reaches
the database before the mirror. WAL with `synchronous=NORMAL`: a transaction that returned survives the death of the
daemon at any instant (the kernel has the pages); after a power cut the newest transactions may be missing, but the
VMs they speak of are gone as well.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from hyperstack.engine.records import (
    ContainerRecord,
    Event,
    ExecRecord,
    HealthRecord,
    NetworkRecord,
    PodRecord,
    VolumeRecord,
)
from hyperstack.pod.errors import HyperStackError, NameTaken

_EVENTS_KEPT = 4096
"""Newest events that `events --since` can tell of; some 2 MB on disk."""

_MIGRATIONS = (
    """
    CREATE TABLE pod (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                      UNIQUE (project, name));
    CREATE TABLE container (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                            UNIQUE (project, name));
    CREATE TABLE exec (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL);
    CREATE TABLE network (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                          UNIQUE (project, name));
    CREATE TABLE volume (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
                         UNIQUE (project, name));
    CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, doc BLOB NOT NULL);
    """,
    "CREATE TABLE health (id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL);",
    # A network had one subnet, and two fields for it. There were none but each project's "bridge".
    """
    UPDATE network SET doc = CAST(json_remove(json_set(CAST(doc AS TEXT), '$.builtin', json('true'), '$.subnets',
        json_array(json_object('cidr', json_extract(CAST(doc AS TEXT), '$.subnet'),
                               'gateway', json_extract(CAST(doc AS TEXT), '$.gateway')))),
        '$.subnet', '$.gateway') AS BLOB);
    """,
)
"""Applied in order; `PRAGMA user_version` is how many have been. Never edit one, add one."""


class _Record(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=_Record)


class Table(Generic[R]):
    """Records of one kind, by id and by (project, name)."""

    def __init__(self, connection: sqlite3.Connection, kind: str, record_type: type[R]) -> None:
        self._connection = connection
        self._kind = kind
        decode = msgspec.json.Decoder(record_type).decode
        self._records: dict[str, R] = {}
        self._names: dict[tuple[str, str], str] = {}
        for (doc,) in connection.execute(f"SELECT doc FROM {kind} ORDER BY rowid"):  # noqa: S608 - our own words
            self._mirror(decode(doc))

    def put(self, record: R) -> R:
        """Insert or replace; returns the record, written.

        :raise NameTaken: another record of the project has its name.
        """
        owner = self._names.get((record.project, record.name), record.id)
        if owner != record.id:
            raise NameTaken(self._kind, record.name, owner)
        self._connection.execute(
            f"INSERT INTO {self._kind} (id, project, name, doc) VALUES (?, ?, ?, ?) "  # noqa: S608 - our own words
            "ON CONFLICT (id) DO UPDATE SET project = excluded.project, name = excluded.name, doc = excluded.doc",
            (record.id, record.project, record.name, msgspec.json.encode(record)))
        self._mirror(record)
        return record

    def delete(self, ident: str) -> None:
        """Idempotent."""
        self._connection.execute(f"DELETE FROM {self._kind} WHERE id = ?", (ident,))  # noqa: S608 - our own words
        gone = self._records.pop(ident, None)
        if gone is not None:
            self._names.pop((gone.project, gone.name), None)

    def get(self, ident: str) -> R | None:
        return self._records.get(ident)

    def named(self, project: str, name: str) -> R | None:
        ident = self._names.get((project, name))
        return None if ident is None else self._records[ident]

    def with_prefix(self, project: str, prefix: str) -> list[R]:
        return [r for r in self._records.values() if r.project == project and r.id.startswith(prefix)]

    def all(self) -> list[R]:
        return list(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def _mirror(self, record: R) -> None:
        before = self._records.get(record.id)
        if before is not None:
            self._names.pop((before.project, before.name), None)
        self._records[record.id] = record
        self._names[(record.project, record.name)] = record.id


class Store:
    """All tables of the engine.

    :raise HyperStackError: the file is of a newer version than this program knows, or is not ours.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._migrate(path)
        self.pods = Table(self._connection, "pod", PodRecord)
        self.containers = Table(self._connection, "container", ContainerRecord)
        self.execs = Table(self._connection, "exec", ExecRecord)
        self.health = Table(self._connection, "health", HealthRecord)
        self.networks = Table(self._connection, "network", NetworkRecord)
        self.volumes = Table(self._connection, "volume", VolumeRecord)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes, all or none on disk. Do not await inside; the mirror is not rolled back, so raise before
        the first write or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add_event(self, event: Event) -> None:
        cursor = self._connection.execute("INSERT INTO event (time_ns, doc) VALUES (?, ?)",
                                          (event.time_ns, msgspec.json.encode(event)))
        if cursor.lastrowid is not None and cursor.lastrowid % 256 == 0:
            self._connection.execute("DELETE FROM event WHERE seq <= ?", (cursor.lastrowid - _EVENTS_KEPT,))

    def events_since(self, time_ns: int) -> list[Event]:
        rows = self._connection.execute("SELECT doc FROM event WHERE time_ns >= ? ORDER BY seq", (time_ns,))
        return [msgspec.json.decode(doc, type=Event) for (doc,) in rows]

    def close(self) -> None:
        self._connection.close()

    def _migrate(self, path: Path) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise HyperStackError(f"{path} was written by a newer hyperd (schema {version}, this one knows "
                                  f"{len(_MIGRATIONS)})", hint="start that version again, or a newer one")
        for number, statements in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._connection.executescript(f"BEGIN; {statements} PRAGMA user_version = {number}; COMMIT;")
