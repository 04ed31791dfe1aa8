"""The log of a container: every byte once, read forwards, backwards and as it grows."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperstack.engine.logs.drivers import Keeping, keeping
from hyperstack.engine.logs.file import STDERR, STDOUT, LogFile
from hyperstack.engine.logs.reader import LINE_LIMIT, read_chunks, read_lines
from hyperstack.engine.logs.segments import open_segment, pack, segments_of
from hyperstack.engine.records import LogRecord
from hyperstack.pod.errors import Exhausted, InvalidArgument
from hyperstack.pod.spec import LogConfig


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.log"


@pytest.fixture
def log(path: Path) -> Iterator[LogFile]:
    log = LogFile.open(path)
    yield log
    log.close()


def write(log: LogFile, *chunks: bytes, stream: int = STDOUT, time_ns: int = 1) -> None:
    for chunk in chunks:
        log.append(stream, log.next_offset(stream), chunk, time_ns)


async def chunks(log: LogFile, stream: int = STDOUT) -> bytes:
    return b"".join([record.data async for record in read_chunks(log, streams={stream})])


async def collect(records: AsyncIterator[LogRecord | list[LogRecord]]) -> list[bytes]:
    """The data of chunks, or of lines, which come some at a time."""
    found = [record async for record in records]
    return [one.data for record in found for one in (record if isinstance(record, list) else [record])]


async def test_output_is_read_back_as_it_was_written(log: LogFile) -> None:
    write(log, b"one", b"\x00\xff\n")
    write(log, b"error", stream=STDERR, time_ns=7)
    write(log, b"two")
    records = [(record.stream, record.time_ns, record.data) async for record in read_chunks(log)]
    assert records == [(1, 1, b"one"), (1, 1, b"\x00\xff\n"), (2, 7, b"error"), (1, 1, b"two")]


async def test_nothing_is_made_before_something_is_written(path: Path, log: LogFile) -> None:
    assert await collect(read_chunks(log)) == []
    assert await collect(read_lines(log, tail=5)) == []
    assert not list(path.parent.iterdir())


def test_files_belong_to_the_daemon_alone(path: Path, log: LogFile) -> None:
    old = os.umask(0)
    try:
        write(log, b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_is_known_is_not_stored_again_and_gaps_are_refused(log: LogFile) -> None:
    write(log, b"0123456789")
    log.append(STDOUT, 0, b"0123", 1)
    log.append(STDOUT, 5, b"56789abc", 1)
    with pytest.raises(ValueError, match="continues at 13, not at 14"):
        log.append(STDOUT, 14, b"x", 1)
    assert await chunks(log) == b"0123456789abc"
    assert log.next_offset(STDOUT) == 13
    assert log.next_offset(STDERR) == 0


async def test_a_new_life_begins_at_0_in_the_same_file(path: Path, log: LogFile) -> None:
    log.begin_life(1)
    write(log, b"first")
    log.end_life()
    start = log.begin_life(2)
    assert (log.life, log.next_offset(STDOUT)) == (2, 0)
    write(log, b"second")
    log.close()
    again = LogFile.open(path)
    assert (again.life, again.next_offset(STDOUT), again.live) == (2, 6, False)
    assert await chunks(again) == b"firstsecond"
    assert await collect(read_chunks(again, start=start)) == [b"second"]
    again.close()


operations = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR, 0]), st.binary(max_size=300)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers(0, 10_000), st.binary(max_size=100))
def test_a_log_that_is_cut_anywhere_recovers_a_prefix(work: list[tuple[int, bytes]], cut: int, garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "c.log"
        log = LogFile.open(path)
        states = [(0, 0, 0, 0)]
        for stream, data in work:
            if stream:
                log.append(stream, log.next_offset(stream), data, 1)
            else:
                log.begin_life(1)
            size = path.stat().st_size if path.exists() else 0
            states.append((size, log.life, log.next_offset(STDOUT), log.next_offset(STDERR)))
        log.close()
        if not path.exists():
            return
        # The first bytes appear together with the file's name, so no death leaves less than them.
        first = 16 + 52
        cut = first + cut % (path.stat().st_size - first + 1)
        os.truncate(path, cut)
        with path.open("ab") as file:
            file.write(b"\xff" + garbage if garbage else b"")  # a zero may be just what a record lacks
        expected = max(state for state in states if state[0] <= cut)
        log = LogFile.open(path)
        assert (log.life, log.next_offset(STDOUT), log.next_offset(STDERR)) == expected[1:]
        write(log, b"more")
        log.close()
        again = LogFile.open(path)
        assert again.next_offset(STDOUT) == expected[2] + 4
        again.close()


def test_output_that_looks_like_a_record_does_not_mislead_recovery(path: Path, tmp_path: Path) -> None:
    other = LogFile.open(tmp_path / "other.log")
    write(other, b"x" * 500)
    other.close()
    log = LogFile.open(path)
    write(log, (tmp_path / "other.log").read_bytes() * 3)
    size = path.stat().st_size
    write(log, (tmp_path / "other.log").read_bytes() * 3)
    log.close()
    os.truncate(path, path.stat().st_size - 1)
    again = LogFile.open(path)
    assert again.next_offset(STDOUT) == 3 * (tmp_path / "other.log").stat().st_size
    assert path.stat().st_size == size
    again.close()


def test_a_file_that_is_no_log_is_replaced(path: Path) -> None:
    path.write_bytes(bytes(4096))
    log = LogFile.open(path)
    assert log.life == 0
    write(log, b"x")
    log.close()


WRITER = """
import sys, time
from pathlib import Path
from hyperstack.engine.logs.file import LogFile
log = LogFile.open(Path(sys.argv[1]))
data = bytes(range(251)) * 40
while True:
    offset = log.next_offset(1)
    log.append(1, offset, data[offset % 251:offset % 251 + 1 + offset % 9000], 1)
    print(log.next_offset(1), flush=True)
"""


async def test_a_writer_that_is_killed_leaves_every_byte_once(path: Path) -> None:
    for seed in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout
        told = 0
        for _ in range(50 + 37 * seed):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split(b"\n")[:-1])])
        writer.wait()
        writer.stdout.close()
        log = LogFile.open(path)
        content = await chunks(log)
        assert log.next_offset(STDOUT) == len(content) >= told
        assert content == (bytes(range(251)) * (len(content) // 251 + 1))[:len(content)]
        log.close()


async def test_a_full_disk_leaves_the_log_as_it_was(log: LogFile, path: Path) -> None:
    write(log, b"before")
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
    try:
        with pytest.raises(Exhausted, match="Cannot write the log"):
            write(log, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert log.next_offset(STDOUT) == 6
    write(log, b"after")
    assert await chunks(log) == b"beforeafter"


async def test_segments_are_limited_in_size_and_number(path: Path) -> None:
    log = LogFile.open(path, max_size=4096, max_files=3)
    log.begin_life(1)
    lines = [b"line %d\n" % number for number in range(1000)]
    write(log, *lines)
    assert len(list(path.parent.iterdir())) == 3
    kept = await collect(read_lines(log))
    assert kept == lines[-len(kept):]
    assert len(kept) > 100
    assert await collect(read_lines(log, tail=100)) == lines[-100:]
    log.close()
    again = LogFile.open(path, max_size=4096, max_files=3)
    assert (again.life, again.next_offset(STDOUT)) == (1, sum(map(len, lines)))
    again.close()
    LogFile.remove(path)
    assert not list(path.parent.iterdir())


async def test_a_line_whose_begin_is_gone_is_not_told(path: Path) -> None:
    log = LogFile.open(path, max_size=4096, max_files=2)
    log.begin_life(1)
    lines = [b"a line with the number %d\n" % number for number in range(1000)]
    output = b"".join(lines)
    write(log, *(output[at:at + 37] for at in range(0, len(output), 37)))
    kept = await collect(read_lines(log))
    assert 50 < len(kept) < 1000
    assert kept == lines[-len(kept):]
    assert await collect(read_lines(log, tail=1000)) == kept
    assert await collect(read_lines(log, tail=len(kept))) == kept
    log.close()


async def test_full_segments_are_packed_and_read_as_before(path: Path) -> None:
    log = LogFile.open(path, max_size=4096, max_files=4, compress=True)
    log.begin_life(1)
    lines = [b"line %d\n" % number for number in range(1000)]

    def packed() -> list[str]:
        return sorted(entry.name for entry in path.parent.iterdir() if entry.suffix == ".gz")

    follower = read_lines(log, follow=True)
    for number, line in enumerate(lines):
        write(log, line)
        if number % 10 == 0:
            await asyncio.sleep(0.001)  # the packing thread has its turns
    async with asyncio.timeout(60):
        while len(packed()) < 2:
            write(log, b"x" * 5000 + b"\n")
            await asyncio.sleep(0.01)
    kept = await collect(read_lines(log))
    assert await collect(read_lines(log, tail=len(kept))) == kept
    assert await collect(read_lines(log, tail=3)) == kept[-3:]
    assert len(list(path.parent.iterdir())) <= 2 * 4
    log.end_life()
    assert (await collect(follower))[-1] == kept[-1]
    log.close()
    again = LogFile.open(path, max_size=4096, max_files=4, compress=True)
    assert await collect(read_lines(again)) == kept
    again.close()
    LogFile.remove(path)
    assert not list(path.parent.iterdir())


def test_a_half_packed_segment_is_packed_again(path: Path) -> None:
    path.with_name(path.name + ".1").write_bytes(b"plain")
    path.with_name(path.name + ".1.gz").write_bytes(b"half of an earlier try")
    path.with_name(path.name + ".1.gz.new").write_bytes(b"half of an earlier try")
    assert segments_of(path) == [1]
    pack(path, [1, 2])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name + ".1.gz"]
    descriptor = open_segment(path, 1)
    assert os.pread(descriptor, 100, 0) == b"plain"
    os.close(descriptor)


@pytest.mark.parametrize(("config", "kept"), [
    (LogConfig(), Keeping(max_size=0, max_files=1)),
    (LogConfig(options={"max-size": "1m", "max-file": "3"}), Keeping(max_size=1 << 20, max_files=3)),
    (LogConfig(options={"max-size": "-1"}), Keeping(max_size=0, max_files=1)),
    (LogConfig(driver="local"), Keeping(max_size=20 << 20, max_files=5, compress=True)),
    (LogConfig(driver="local", options={"compress": "false"}), Keeping(max_size=20 << 20, max_files=5)),
    (LogConfig(driver="none"), Keeping(max_size=1 << 20, max_files=2, readable=False)),
])
def test_drivers_have_dockers_defaults(config: LogConfig, kept: Keeping) -> None:
    assert keeping(config) == kept


@pytest.mark.parametrize(("driver", "options", "words"), [
    ("syslog", {}, "--log-driver syslog is not supported"), ("none", {"max-size": "1m"}, "--log-opt max-size"),
    ("json-file", {"tag": "{{.Name}}{{len .ID}}"}, "--log-opt tag"), ("local", {"tag": "x"}, "--log-opt tag"),
    ("json-file", {"labels-regex": "x"}, "--log-opt labels-regex"),
    ("json-file", {"max-file": "0"}, "invalid max-file"), ("json-file", {"max-size": "lots"}, "invalid size"),
    ("json-file", {"compress": "yes"}, "invalid compress"),
    ("json-file", {"compress": "true", "max-size": "1m"}, "compress cannot be true when max-file is less than 2"),
    ("json-file", {"compress": "true", "max-file": "2"}, "or max-size is not set"),
])
def test_what_no_driver_honours_is_refused(driver: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        keeping(LogConfig(driver=driver, options=options))


async def test_chunks_are_joined_to_lines_per_stream(log: LogFile) -> None:
    write(log, b"a", time_ns=1)
    write(log, b"E1\nE", stream=STDERR, time_ns=2)
    write(log, b"b\ncd\nrest", time_ns=3)
    records = [(line.stream, line.time_ns, line.data) async for lines in read_lines(log) for line in lines]
    assert records == [(2, 2, b"E1\n"), (1, 1, b"ab\n"), (1, 3, b"cd\n"), (1, 3, b"rest"), (2, 2, b"E")]
    assert await collect(read_lines(log, streams={STDERR})) == [b"E1\n", b"E"]


async def test_a_line_ends_with_its_life(log: LogFile) -> None:
    log.begin_life(1)
    write(log, b"unfinished")
    log.begin_life(2)
    write(log, b"next\n")
    assert await collect(read_lines(log)) == [b"unfinished", b"next\n"]
    assert await collect(read_lines(log, tail=1)) == [b"next\n"]
    assert await collect(read_lines(log, tail=2)) == [b"unfinished", b"next\n"]


async def test_long_lines_are_cut(log: LogFile) -> None:
    write(log, b"x" * 40_000 + b"\nshort\n" + b"y" * LINE_LIMIT + b"\n")
    assert [len(line) for line in await collect(read_lines(log))] == [16384, 16384, 7233, 6, 16384, 1]


async def test_very_many_lines_come_in_batches(log: LogFile) -> None:
    lines = [b"%d\n" % number for number in range(10_000)]
    write(log, b"".join(lines)[:-1])
    write(log, b"\n" + b"\n" * 5000 + b"rest")
    batches = [[line.data for line in batch] async for batch in read_lines(log)]
    assert [data for batch in batches for data in batch] == [*lines, *[b"\n"] * 5000, b"rest"]
    assert max(map(len, batches)) <= 2048
    assert await collect(read_lines(log, tail=5003)) == [*lines[-2:], *[b"\n"] * 5000, b"rest"]


async def test_times_bound_what_is_read(log: LogFile) -> None:
    for number in range(1, 6):
        write(log, b"%d\n" % number, time_ns=number * 10)
    assert await collect(read_lines(log, since_ns=20, until_ns=40)) == [b"2\n", b"3\n", b"4\n"]
    assert await collect(read_lines(log, tail=2, since_ns=50)) == [b"5\n"]
    assert await collect(read_lines(log, follow=True, until_ns=30)) == [b"1\n", b"2\n", b"3\n"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR, 0]), st.text("ab\n", max_size=6)), max_size=40),
       st.integers(0, 12), st.sampled_from([frozenset({1}), frozenset({2}), frozenset({1, 2})]),
       st.sampled_from([0, 600]))
@example(work=[(1, "a"), (2, "\n\n\n")], tail=1, streams=frozenset({1, 2}), max_size=0)  # the older stream ends last
@example(work=[(2, "b"), (1, "\n\n\n"), (2, "\n")], tail=1, streams=frozenset({1, 2}), max_size=0)  # begins first
def test_the_tail_is_the_end_of_all_lines(work: list[tuple[int, str]], tail: int, streams: frozenset[int],
                                          max_size: int) -> None:
    async def check(path: Path) -> None:
        log = LogFile.open(path, max_size=max_size, max_files=1000)
        for stream, text in work:
            if stream:
                write(log, text.encode(), stream=stream)
            else:
                log.begin_life(1)
        everything = await collect(read_lines(log, streams=streams))
        assert await collect(read_lines(log, streams=streams, tail=tail)) == everything[max(0, len(everything) - tail):]
        log.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(check(Path(directory) / "c.log"))


async def test_the_tail_of_a_large_log_is_found(log: LogFile) -> None:
    write(log, *(b"%d %s\n" % (number, b"x" * 3000) for number in range(1000)))
    write(log, b"y" * (1 << 20) + b"\n")
    assert [line[:4] for line in await collect(read_lines(log, tail=66))] == [b"999 ", *[b"yyyy"] * 64, b"\n"]


@pytest.mark.parametrize("reopened", [False, True])
async def test_a_stream_that_is_quiet_does_not_make_the_tail_read_the_whole_log(path: Path, reopened: bool) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar

    log = LogFile.open(path, max_size=4 << 20, max_files=9)
    write(log, b"starting\n", stream=STDERR)
    if reopened:
        log.close()
        log = LogFile.open(path, max_size=4 << 20, max_files=9)
    write(log, *(b"%d %s\n" % (number, b"x" * 3000) for number in range(4000)))
    before = bytes_read()
    assert [line[:4] for line in await collect(read_lines(log, tail=2))] == [b"3998", b"3999"]
    assert bytes_read() - before < 1 << 20, "of 12 MB"
    log.close()


async def test_a_follower_reads_what_is_appended_until_the_life_ends(log: LogFile) -> None:
    log.begin_life(1)
    write(log, b"old\n", b"a")
    following = asyncio.create_task(collect(read_lines(log, tail=1, follow=True)))
    await asyncio.sleep(0)
    write(log, b"b\n", b"c\n")
    for _ in range(5):
        await asyncio.sleep(0)
    write(log, b"last")
    log.end_life()
    assert await following == [b"ab\n", b"c\n", b"last"]


async def test_a_follower_does_not_go_on_to_the_next_life(log: LogFile) -> None:
    log.begin_life(1)
    following = asyncio.create_task(collect(read_chunks(log, follow=True)))
    await asyncio.sleep(0)
    write(log, b"one")
    log.begin_life(2)
    write(log, b"two")
    assert await following == [b"one"]


async def test_a_follower_may_await_the_next_life(log: LogFile) -> None:
    awaiting = read_chunks(log, start=log.end, follow=True, life=1)
    log.begin_life(1)
    write(log, b"one")
    log.end_life()
    assert await collect(awaiting) == [b"one"]
    awaiting = read_chunks(log, start=log.end, follow=True, life=2)
    following = asyncio.create_task(collect(awaiting))
    await asyncio.sleep(0)
    log.begin_life(2)
    write(log, b"two")
    log.end_life()
    assert await following == [b"two"]


async def test_a_follower_ends_with_its_time_and_with_the_log(log: LogFile) -> None:
    log.begin_life(1)
    write(log, b"x\n")
    assert await collect(read_lines(log, follow=True, until_ns=5)) == [b"x\n"]
    following = asyncio.create_task(collect(read_lines(log, follow=True)))
    await asyncio.sleep(0)
    log.close()
    assert await following == [b"x\n"]


async def test_a_slow_follower_survives_the_removal_of_segments(path: Path) -> None:
    log = LogFile.open(path, max_size=2000, max_files=2)
    log.begin_life(1)
    write(log, b"first\n")
    following = read_lines(log, follow=True)
    assert [line.data for line in await anext(following)] == [b"first\n"]
    lines = [b"line %d\n" % number for number in range(500)]
    write(log, *lines)
    log.end_life()
    rest = await collect(following)
    assert rest[-10:] == lines[-10:]
    assert rest == [line for line in lines if line in set(rest)], "in order, none twice"
    log.close()


async def test_large_writes_are_read_as_a_whole(log: LogFile) -> None:
    blob = os.urandom(5 << 20)
    write(log, blob)
    assert await chunks(log) == blob
