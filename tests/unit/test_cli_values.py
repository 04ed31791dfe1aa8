"""Units, tables, names, stream framing, and the options of run as Docker's create body."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.cli import mounts, options, references, streams, units
from hyperstack.cli.commands.ps import display_ports
from hyperstack.cli.commands.stats import cpu_percent, memory_used
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing, printable, table


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("100", 100), ("512m", 512 << 20), ("1.5g", 3 << 29),
                                            ("64KiB", 65536), ("2 TB", 2 << 40), ("7b", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1e3", "9999999999t", "1" * 100])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="invalid size"):
        units.parse_size(text)


@pytest.mark.parametrize(("seconds", "words"), [
    (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (61, "About a minute"), (180, "3 minutes"),
    (3600, "About an hour"), (5400, "2 hours"), (47 * 3600, "47 hours"), (72 * 3600, "3 days"),
    (15 * 86400, "2 weeks"), (90 * 86400, "3 months"), (800 * 86400, "2 years")])
def test_ages_are_dockers(seconds: float, words: str) -> None:
    assert units.age(seconds) == words


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (999, "999B"), (4260000, "4.26MB"), (133e6, "133MB")])
def test_sizes_are_written_as_docker_does(size: float, text: str) -> None:
    assert units.decimal_size(size, 3) == text


def test_binary_sizes() -> None:
    assert units.binary_size(12.5 * 1024 * 1024) == "12.5MiB"


def test_times_are_unix_seconds_for_the_api() -> None:
    assert units.parse_timestamp("1700000000.5") == "1700000000.5"
    assert units.parse_timestamp("2024-05-01T12:00:00Z") == "1714564800.000000000"
    assert float(units.parse_timestamp("1h30m")) == pytest.approx(time.time() - 5400, abs=60)
    with pytest.raises(CliError, match="invalid time"):
        units.parse_timestamp("yesterday")


@given(st.text())
def test_any_time_or_duration_is_read_or_refused(text: str) -> None:
    try:
        assert float(units.parse_timestamp(text)) is not None
    except CliError:
        assert units.parse_duration(text) is None


def test_columns_are_at_least_ten_wide_and_three_apart() -> None:
    assert table([["ID", "LONGER HEADING", "LAST"], ["a", "b", "c"]]) == \
        "ID        LONGER HEADING   LAST\na         b                c\n"


def test_nothing_of_a_guest_drives_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\x7fé") == "a\\x1b[31mb\\x0ac\\x7fé"


def test_formats_of_a_list() -> None:
    listing = Listing({"ID": "ID", "Name": "NAME"}, ("ID", "Name"))
    rows = [{"ID": "1", "Name": "one", "Label": lambda name: name + "!"}]
    assert listing.text(rows, "json") == '{"ID":"1","Name":"one"}\n'
    assert listing.text(rows, "{{.ID}}:{{.Name}}") == "1:one\n"
    assert listing.text(rows, r"table {{.Name}}\t{{.Label "+'"x"'+"}}") == "NAME      X\none       x!\n"
    assert listing.text([], "table {{upper .Name}}") == "NAME\n"


@pytest.mark.parametrize(("given_name", "canonical"), [
    ("busybox", "docker.io/library/busybox:latest"), ("a/b:1", "docker.io/a/b:1"),
    ("localhost/x", "localhost/x:latest"), ("host:5000/x", "host:5000/x:latest"),
    ("x@sha256:ab", "docker.io/library/x@sha256:ab")])
def test_names_are_completed(given_name: str, canonical: str) -> None:
    assert references.canonical(given_name) == canonical


def test_names_are_split() -> None:
    assert references.split("h:5000/x") == ("h:5000/x", "")
    assert references.split("h:5000/x:1@sha256:ab") == ("h:5000/x", "sha256:ab")


@pytest.mark.parametrize(("publish", "exposed", "bindings"), [
    (["80"], ["80/tcp"], {"80/tcp": [("", "")]}),
    (["8080:80"], ["80/tcp"], {"80/tcp": [("", "8080")]}),
    (["127.0.0.1:8080:80/udp"], ["80/udp"], {"80/udp": [("127.0.0.1", "8080")]}),
    (["127.0.0.1::80"], ["80/tcp"], {"80/tcp": [("127.0.0.1", "")]}),
    (["[::1]:1:2"], ["2/tcp"], {"2/tcp": [("::1", "1")]}),
    (["8000-8001:80-81"], ["80/tcp", "81/tcp"], {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
    (["8000-8010:80"], ["80/tcp"], {"80/tcp": [("", "8000-8010")]}),
    (["1:80", "2:80"], ["80/tcp"], {"80/tcp": [("", "1"), ("", "2")]}),
])
def test_ports_are_read(publish: list[str], exposed: list[str], bindings: dict[str, list[tuple[str, str]]]) -> None:
    found = options.ports(publish)
    assert found == (exposed, {port: [{"HostIp": ip, "HostPort": number} for ip, number in held]
                               for port, held in bindings.items()})


@pytest.mark.parametrize("option", ["", "abc", "0", "70000", "1:2:3:4", "80/icmp", "1-3:1-2", "2-1:2-1", "-80"])
def test_ports_that_are_none_are_refused(option: str) -> None:
    with pytest.raises(CliError, match="invalid port"):
        options.ports([option])


@given(st.text(alphabet="0123456789:-./[]tcpud", max_size=20))
def test_any_port_is_read_or_refused(option: str) -> None:
    try:
        exposed, bindings = options.ports([option])
    except CliError:
        return
    assert exposed
    assert list(bindings) == exposed


def test_volumes_and_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mounts.split_volumes(["/a:/b:ro", "named:/c", "./x:/d", "/anonymous"]) == (
        ["/a:/b:ro", "named:/c", f"{tmp_path}/x:/d"], ["/anonymous"])
    assert mounts.mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,ro") == {
        "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}, "ReadOnly": True}
    assert mounts.mount('type=volume,source=v,target=/t,"volume-opt=a=1,2"')["VolumeOptions"] == {
        "DriverConfig": {"Options": {"a": "1,2"}}}


@pytest.mark.parametrize("option", ["", "type=bind", "type=bind,target", "target=/x,what=1", "target=/x,tmpfs-mode=9"])
def test_mounts_that_are_none_are_refused(option: str) -> None:
    with pytest.raises(CliError, match="--mount"):
        mounts.mount(option)


@given(st.text(max_size=40))
def test_any_mount_is_read_or_refused(option: str) -> None:
    with suppress(CliError):
        assert mounts.mount(option)["Target"]


def test_small_options() -> None:
    assert options.ulimit("nofile=1:2") == {"Name": "nofile", "Soft": 1, "Hard": 2}
    assert options.restart_policy("on-failure:3") == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert options.extra_host("a=[::1]") == "a:::1"
    for wrong, reader in (("nofile", options.ulimit), ("nofile=3:2", options.ulimit), ("often", options.restart_policy),
                          ("on-failure:", options.restart_policy), ("a", options.extra_host)):
        with pytest.raises(CliError):
            reader(wrong)


def test_environment_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B= two words\nHERE\nNOT_HERE\n")
    assert options.environment_file(str(file)) == ["A=1", "B= two words", "HERE=yes"]
    file.write_text("bad name=1")
    with pytest.raises(CliError, match="white space"):
        options.environment_file(str(file))
    with pytest.raises(CliError, match="cannot read"):
        options.environment_file(str(tmp_path / "none"))


@pytest.mark.parametrize(("ports", "text"), [
    ([], ""), ([{"PrivatePort": 80, "Type": "tcp"}], "80/tcp"),
    ([{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
      {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
      {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 443, "Type": "tcp"}],
     "443/tcp, 0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp"),
])
def test_ports_are_shown(ports: list[dict[str, Any]], text: str) -> None:
    assert display_ports(ports) == text


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300))), st.integers(1, 64))
def test_streams_are_taken_apart_wherever_they_are_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    sent = b"".join(struct.pack(">BxxxL", stream, len(data)) + data for stream, data in frames)
    pieces = [sent[start:start + step] for start in range(0, len(sent), step)]
    got: dict[int, bytes] = {1: b"", 2: b""}
    for stream, data in streams.demultiplex(pieces):
        got[stream] += data
    assert got == {number: b"".join(data for stream, data in frames if stream == number) for number in (1, 2)}


@given(st.lists(st.binary(max_size=100)))
def test_any_bytes_are_a_stream_or_a_clear_error(chunks: list[bytes]) -> None:
    with suppress(CliError):
        assert all(stream in (1, 2) for stream, _ in streams.demultiplex(chunks))


def test_an_error_in_the_stream_is_told() -> None:
    with pytest.raises(CliError, match="disk is gone"):
        list(streams.demultiplex([struct.pack(">BxxxL", 3, 12) + b"disk is gone"]))


def test_stats_are_counted_as_docker_does() -> None:
    assert memory_used({"usage": 100, "stats": {"inactive_file": 30}}) == 70
    assert cpu_percent({"cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
                        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000}}) == 40.0
    assert cpu_percent({}) == 0.0
