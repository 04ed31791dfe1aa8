"""A store whose process is killed in the middle of work: nothing half-made is visible, nothing leaks, work resumes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.registry.conftest import MakeStore, RealRegistry
from tests.unit.image_builds import build, collect
from tests.unit.image_layers import check, make_tar, member

ROUNDS = 6
_WORK = """
import asyncio, sys
from pathlib import Path
from hyperstack.image.config import ImageConfigOptions
from hyperstack.image.store import ImageStore
async def main():
    host, uid, root, *names = sys.argv[1:]
    store = ImageStore(Path(root), config=ImageConfigOptions(insecure=[host], worker_uid=int(uid) or None))
    await store.start()
    print("ready", flush=True)
    while True:
        await asyncio.gather(*map(store.pull, names))
        saved = b"".join([piece async for piece in store.save(names[:1])])
        for name in names:
            store.remove(name)
        async def stream():
            yield saved
        await store.load(stream())
asyncio.run(main())
"""


def leftovers(root: Path) -> set[str]:
    return {path.name for path in (root / "tmp").iterdir()}


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_a_kill_at_a_random_time(registry: RealRegistry, make_store: MakeStore, tmp_path: Path, seed: int,
                                       number: int) -> None:
    contents = random.Random(1)
    layers = [make_tar(member(f"f{layer}", data=contents.randbytes(3 << 20))) for layer in range(4)]
    built = [build(layers[:3]), build(layers[2:])]
    names = [registry.push(image, f"killed:{place}", tmp_path) for place, image in enumerate(built)]
    root = tmp_path / "images"
    uid = "64999" if os.geteuid() == 0 else "0"
    process = subprocess.Popen([sys.executable, "-c", _WORK, registry.host, uid, root, *names], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(random.Random(seed + number).uniform(0.01, 1.5))
        process.kill()
        process.wait()
    store = await make_store(insecure=[registry.host])
    assert leftovers(root) == set(), f"--seed {seed}"
    for image in store.list_all():
        assert len(await collect(store.save([image.id]))) > 6 << 20
        for disk in store.layer_disks(image):
            check(disk)
    assert [(await store.pull(name)).id for name in names] == [image.id for image in built]
    store.prune(dangling_only=False, in_use=[])
    assert [path for part in ("blobs", "layers", "partial", "tmp") for path in (root / part).rglob("*")
            if path.is_file()] == []
