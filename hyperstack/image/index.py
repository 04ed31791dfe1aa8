"""The index of images: SQLite in WAL mode, used from one thread. It names only what is whole on the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FIRST = """
CREATE TABLE images (
    id TEXT PRIMARY KEY,             -- digest of the config
    config BLOB NOT NULL,            -- the config document
    manifest TEXT NOT NULL           -- digest of the manifest that brought it, a blob
) STRICT;
CREATE TABLE image_layers (
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,       -- 0 is the lowest
    diff_id TEXT NOT NULL REFERENCES layers (diff_id),
    blob TEXT NOT NULL,              -- digest of the layer as it travels
    PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX image_layers_by_diff_id ON image_layers (diff_id);
CREATE INDEX image_layers_by_blob ON image_layers (blob);
CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,
    size INTEGER NOT NULL,           -- bytes of the disk
    entries INTEGER NOT NULL
) STRICT;
CREATE TABLE layer_blobs (
    blob TEXT PRIMARY KEY,
    diff_id TEXT NOT NULL REFERENCES layers (diff_id) ON DELETE CASCADE   -- proven by unpacking it
) STRICT;
CREATE TABLE names (
    reference TEXT PRIMARY KEY,      -- canonical, with a tag or with a digest
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX names_by_image ON names (image);
"""
_MIGRATIONS = (_FIRST, """
ALTER TABLE images ADD COLUMN intermediate INTEGER NOT NULL DEFAULT 0;   -- a build's step, and nobody's image
CREATE TABLE build_cache (
    key TEXT PRIMARY KEY,            -- digest of the project, of what was built on, and of what was done
    project TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,   -- what came of it
    description TEXT NOT NULL,
    created_at INTEGER NOT NULL,     -- seconds, as the next one
    used_at INTEGER NOT NULL,
    uses INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX build_cache_by_image ON build_cache (image);
""")
"""Applied in order; `PRAGMA user_version` is how many have been. Never edit one, add one."""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    diff_id: str
    blob: str


@dataclass(frozen=True, kw_only=True)
class CacheRow:
    """What a step of a build was seen to make."""

    key: str
    project: str
    image: str
    description: str
    created_at: int = 0
    used_at: int = 0
    uses: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    id: str
    config: bytes
    manifest: str
    layers: tuple[LayerRow, ...]
    """Lowest first."""


class ImageIndex:
    def __init__(self, path: Path) -> None:
        """:raise sqlite3.DatabaseError: the file is no database, or a newer version made it."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            self._db.close()
            raise sqlite3.DatabaseError(f"{path} has version {version}; this program knows {len(_MIGRATIONS)}")
        for number, statements in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN; {statements} PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add_layer(self, diff_id: str, blob: str, size: int, entries: int) -> None:
        with self._transaction():
            self._db.execute("INSERT INTO layers VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (diff_id, size, entries))
            self._db.execute("INSERT OR REPLACE INTO layer_blobs VALUES (?, ?)", (blob, diff_id))

    def diff_id_of(self, blob: str) -> str | None:
        """What the blob was seen to unpack to."""
        row = self._db.execute("SELECT diff_id FROM layer_blobs WHERE blob = ?", (blob,)).fetchone()
        return row[0] if row else None

    def layer_sizes(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT diff_id, size FROM layers"))

    def forget_layers(self, diff_ids: Iterable[str]) -> None:
        with self._transaction():
            self._db.executemany("DELETE FROM layers WHERE diff_id = ?", [(diff_id,) for diff_id in diff_ids])

    def put_image(self, image: ImageRow, names: Iterable[str]) -> None:
        """The image with these names, which other images lose. A known image keeps its older names."""
        with self._transaction():
            self._put(image, intermediate=False)
            self._name(image.id, names)

    def _put(self, image: ImageRow, *, intermediate: bool) -> None:
        self._db.execute("INSERT INTO images VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                         "manifest = excluded.manifest, intermediate = min(intermediate, excluded.intermediate)",
                         (image.id, image.config, image.manifest, intermediate))
        self._db.execute("DELETE FROM image_layers WHERE image = ?", (image.id,))
        self._db.executemany("INSERT INTO image_layers VALUES (?, ?, ?, ?)", [
            (image.id, position, layer.diff_id, layer.blob) for position, layer in enumerate(image.layers)])

    def put_step(self, image: ImageRow, cache: CacheRow) -> None:
        """What a step of a build made, and how it is found again."""
        with self._transaction():
            self._put(image, intermediate=True)
            self._db.execute("INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?, ?, ?, ?, 0)",
                             (cache.key, cache.project, cache.image, cache.description, cache.created_at,
                              cache.used_at))

    def cached(self, key: str, now: int) -> str | None:
        """The image that a step made, marked as used again."""
        row = self._db.execute("UPDATE build_cache SET used_at = ?, uses = uses + 1 WHERE key = ? RETURNING image",
                               (now, key)).fetchone()
        return row[0] if row else None

    def cache_rows(self) -> list[CacheRow]:
        """Oldest use first."""
        rows = self._db.execute("SELECT key, project, image, description, created_at, used_at, uses FROM build_cache "
                                "ORDER BY used_at, created_at")
        return [CacheRow(key=key, project=project, image=image, description=description, created_at=created,
                         used_at=used, uses=uses) for key, project, image, description, created, used, uses in rows]

    def forget_steps(self, keys: Iterable[str], in_use: Collection[str]) -> None:
        """They are no longer found; images that nobody needs go as well, those of steps that were done anew too."""
        with self._transaction():
            self._db.executemany("DELETE FROM build_cache WHERE key = ?", [(key,) for key in keys])
            unfound = self._db.execute(
                "SELECT id FROM images WHERE intermediate AND id NOT IN (SELECT image FROM build_cache)").fetchall()
            self._db.executemany("DELETE FROM images WHERE id = ?", [row for row in unfound if row[0] not in in_use])

    def publish(self, image: str) -> None:
        """A step's image is somebody's from now on."""
        self._db.execute("UPDATE images SET intermediate = 0 WHERE id = ?", (image,))

    def intermediates(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT id FROM images WHERE intermediate")}

    def name(self, image: str, references: Iterable[str]) -> None:
        with self._transaction():
            self._name(image, references)

    def _name(self, image: str, references: Iterable[str]) -> None:
        rows = [(name, image) for name in references]
        self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", rows)
        if rows:
            self._db.execute("UPDATE images SET intermediate = 0 WHERE id = ?", (image,))

    def unname(self, references: Iterable[str]) -> None:
        with self._transaction():
            self._db.executemany("DELETE FROM names WHERE reference = ?", [(name,) for name in references])

    def remove_image(self, image: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM images WHERE id = ?", (image,))

    def image(self, ident: str) -> ImageRow | None:
        row = self._db.execute("SELECT id, config, manifest FROM images WHERE id = ?", (ident,)).fetchone()
        if row is None:
            return None
        layers = self._db.execute("SELECT diff_id, blob FROM image_layers WHERE image = ? ORDER BY position", (ident,))
        return ImageRow(id=row[0], config=row[1], manifest=row[2],
                        layers=tuple(LayerRow(diff_id=diff_id, blob=blob) for diff_id, blob in layers))

    def image_ids(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT id FROM images")]

    def image_named(self, reference: str) -> str | None:
        row = self._db.execute("SELECT image FROM names WHERE reference = ?", (reference,)).fetchone()
        return row[0] if row else None

    def images_with_prefix(self, prefix: str) -> list[str]:
        """At most two ids that begin so. `prefix` is sha256: and hexadecimal digits."""
        rows = self._db.execute("SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "g"))
        return [row[0] for row in rows]

    def names_of(self, image: str) -> list[str]:
        return [row[0] for row in
                self._db.execute("SELECT reference FROM names WHERE image = ? ORDER BY reference", (image,))]

    def used_blobs(self) -> set[str]:
        """Configs, manifests and layers of all images."""
        rows = self._db.execute(
            "SELECT id FROM images UNION SELECT manifest FROM images UNION SELECT blob FROM image_layers")
        return {row[0] for row in rows}

    def unused_layers(self) -> list[str]:
        """Layers that no image has."""
        return [row[0] for row in self._db.execute(
            "SELECT diff_id FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)")]
