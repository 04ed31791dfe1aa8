"""The configuration file and the command line: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.daemon.config import Config, load, parse_size
from hyperstack.pod.errors import InvalidArgument

PACKAGED = Path(__file__).parents[2] / "packaging" / "hyperd.toml"


def write(directory: Path, text: str) -> Path:
    path = directory / "hyperd.toml"
    path.write_text(text)
    return path


def refusal(directory: Path, text: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        load(write(directory, text), {})
    return caught.value


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), {}) == Config()


def test_the_packaged_file_writes_out_exactly_the_defaults(tmp_path: Path) -> None:
    """Every commented line, uncommented, is a known key with its default value."""
    text = re.sub(r"^#(?=[\[\"\w])", "", PACKAGED.read_text(), flags=re.MULTILINE)
    text = "\n".join(line for line in text.splitlines() if re.match(r"[\[\"]|\w+ = ", line))
    document = tomllib.loads(text)
    document["registries"] = {}  # Its examples are no defaults.
    document["hosts"] = []
    document["binds"] = {}
    assert load(write(tmp_path, PACKAGED.read_text()), document) == Config()
    missing = {field.name for field in msgspec.structs.fields(Config)} - set(document)
    assert not missing


def test_options_win_over_the_file_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path, '[registries]\ninsecure = ["a:5000"]\n[registries.mirrors]\n"docker.io" = ["https://m"]\n')
    config = load(file, {"registries": {"insecure": ["b:5000"]}, "group": "wheel"})
    assert config.registries.insecure == ["b:5000"]
    assert config.registries.mirrors == {"docker.io": ["https://m"]}
    assert config.group == "wheel"


@pytest.mark.parametrize(("text", "field", "meant"), [
    ('data_rot = "/x"', "data_rot", "data_root"),
    ('[pods]\nmemmory = "1GiB"', "pods.memmory", "pods.memory"),
    ('[registries]\ninsecur = []', "registries.insecur", "registries.insecure"),
])
def test_an_unknown_key_is_named_with_what_was_meant(tmp_path: Path, text: str, field: str, meant: str) -> None:
    error = refusal(tmp_path, text)
    assert error.field == field
    assert f"did you mean {meant}?" in str(error)


@pytest.mark.parametrize(("text", "words"), [
    ("data_root = 1", "data_root"),
    ('data_root = "here"', "absolute"),
    ('log_level = "loud"', "log_level"),
    ('hosts = ["tcp://0.0.0.0:2375"]', "without TLS"),
    (f'hosts = ["unix:///{"x" * 120}"]', "longer"),
    ('[pods]\nmemory = "much"', "pods.memory"),
    ('[pods]\ndisk = 0', "pods.disk"),
    ('[pods]\nboot_timeout_s = 0', "boot_timeout_s"),
    ('[registries]\ninsecure = ["http://a"]', "without a scheme"),
    ('[registries.mirrors]\n"docker.io" = ["mirror"]', "https://host"),
    ('[network]\npools = ["10.0.0.1/8"]', "network.pools"),
    ('[network]\npools = ["10.0.0.0/28"]', "prefix length"),
    ('[hypervisor]\nfirst_uid = 0', "first_uid"),
    ('[hypervisor]\nconcurrent_starts = -1', "hypervisor.concurrent_starts"),
    ('[hypervisor]\npool = 65', "hypervisor.pool"),
    ('[hypervisor]\npool_memory_percent = 0', "hypervisor.pool_memory_percent"),
    ('[hypervisor]\nmemory_reserve = "half"', "hypervisor.memory_reserve"),
    ("x = ", "not TOML"),
    ("\ud800", "surrogates"),
])
def test_a_wrong_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    if words == "surrogates":
        (tmp_path / "hyperd.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(InvalidArgument, match="not TOML"):
            load(tmp_path / "hyperd.toml", {})
        return
    assert words in str(refusal(tmp_path, text))


def test_a_file_that_is_not_there_is_an_error_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        load(tmp_path / "none.toml", {})


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    assert "larger" in str(refusal(tmp_path, "#" * (2 << 20)))


def test_two_run_directories_are_two_instances() -> None:
    one, two = Config(run_dir="/run/a"), Config(run_dir="/run/b")
    assert one.instance != two.instance
    assert re.fullmatch(r"[0-9a-f]{6}", one.instance)


def test_the_socket_is_in_the_run_directory_unless_said_otherwise() -> None:
    assert Config(run_dir="/run/a").sockets == [Path("/run/a/docker.sock")]
    assert Config(hosts=["unix:///x/y.sock"]).sockets == [Path("/x/y.sock")]


@pytest.mark.parametrize(("text", "size"), [
    (4096, 4096), ("4096", 4096), ("1k", 1024), ("256MiB", 256 << 20), ("2 GB", 2 << 30), ("1T", 1 << 40)])
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text, field="x") == size


@given(st.text(max_size=30))
def test_any_text_is_a_positive_size_or_is_refused_by_name(text: str) -> None:
    try:
        size = parse_size(text, field="pods.memory")
    except InvalidArgument as error:
        field = error.field
    else:
        assert size > 0
        return
    assert field == "pods.memory"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
                    max_leaves=8),
       st.sampled_from(["data_root", "hosts", "pods", "registries", "network", "hypervisor", "log_level"]))
def test_any_value_of_any_key_is_taken_or_refused(value: object, key: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert isinstance(load(None, {key: value}), Config)


@pytest.mark.parametrize(("host", "shown"), [
    ("tcp://0.0.0.0:2376", "tcp://0.0.0.0:2376"), ("tcp://:99", "tcp://0.0.0.0:99"), ("tcp://[::]", "tcp://[::]:2376"),
    ("tcp://localhost", "tcp://127.0.0.1:2376")])
def test_addresses_behind_tls(host: str, shown: str) -> None:
    config = load(None, {"hosts": [host], "tls": {"verify": True}, "run_dir": "/run/a"})
    assert [str(address) for address in config.addresses] == [shown]
    assert config.sockets == [Path("/run/a/docker.sock")]


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:2375", "tcp://[::]", "tcp://192.0.2.1:2375", "tcp://:2375"])
def test_plain_tcp_is_refused_off_loopback(host: str) -> None:
    with pytest.raises(InvalidArgument, match="without TLS") as caught:
        load(None, {"hosts": [host]})
    assert "hyperctl tls init" in (caught.value.hint or "")
    assert load(None, {"hosts": ["tcp://127.0.0.1", "tcp://[::1]:1"]}).addresses


@pytest.mark.parametrize("host", ["tcp://example.org:2376", "tcp://1.2.3.4:0", "tcp://1.2.3.4:99999", "tcp://a/b"])
def test_an_address_is_one_of_this_host(host: str) -> None:
    with pytest.raises(InvalidArgument, match="hosts: "):
        load(None, {"hosts": [host], "tls": {"verify": True}})
