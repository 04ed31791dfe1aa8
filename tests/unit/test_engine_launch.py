"""What a guest is told, from what a user asked for and the image says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.lives import restarts
from hyperstack.engine.machines import launch
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.disks import ContainerDisks
from hyperstack.network.api import Binding
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.kernel import Kernel
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec, Resources, RestartKind, RestartPolicy, Security

KERNEL = Kernel(name="k", image=Path("/k"), initrd=Path("/i"), min_memory_mib=96)
CONFIG = EngineConfig(data_root=Path("/nowhere"))
IMAGE = ImageConfig(entrypoint=("/entry",), command=("one", "two"), env=("A=image", "B=image"), working_dir="/work",
                    user="daemon")


def container(image: ImageConfig = IMAGE, **spec: object) -> ContainerRecord:
    return ContainerRecord(id="c" * 64, pod_id="p", project="default", name="c", image_id="i", image_config=image,
                           spec=ContainerSpec(image="x", **spec), created_at=1)  # type: ignore[arg-type] # any field


def pod(spec: PodSpec | None = None, **fields: object) -> PodRecord:
    return PodRecord(id="abcdef0123456789", name="web", project="default", spec=spec or PodSpec(), created_at=1,
                     implicit=True, **fields)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(("entrypoint", "command", "expected"), [
    (None, None, ("/entry", "one", "two")),
    (None, ("three",), ("/entry", "three")),
    (("/other",), None, ("/other",)),
    (("/other",), ("x",), ("/other", "x")),
    ((), ("x",), ("x",)),
])
def test_entrypoint_and_command_combine_as_docker_has_it(
        entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    assert launch.command_line(container(entrypoint=entrypoint, command=command)) == expected


def test_the_users_environment_wins_and_a_bare_name_takes_a_variable_away() -> None:
    env = launch.environment(container(env=("B=user", "A", "C=user")), "host", tty=True)
    assert dict(e.split("=", 1) for e in env) == {
        "PATH": launch.DEFAULT_PATH.partition("=")[2], "HOSTNAME": "host", "TERM": "xterm", "B": "user", "C": "user"}


def test_memory_of_the_machine() -> None:
    def mib(*limits: int, asked: int = 0) -> int:
        containers = [container(resources=Resources(memory=limit << 20)) for limit in limits]
        return launch.machine_memory_mib(pod(PodSpec(memory=asked << 20)), containers, KERNEL, CONFIG)
    assert mib(0) == 512
    assert mib(64, 32) == 96 + 96
    assert mib(64, 0) == 512
    assert mib(2048, 0) == 2048 + 96
    assert mib(64, asked=300) == 300
    with pytest.raises(InvalidArgument, match="6MB"):
        mib(1)
    with pytest.raises(InvalidArgument, match="at least 96 MiB"):
        mib(64, asked=50)


def test_processors_are_the_limits_rounded_up() -> None:
    def cpus(*limits: Resources) -> int:
        return launch.machine_vcpus(pod(), [container(resources=r) for r in limits])
    assert cpus(Resources()) == 1
    assert cpus(Resources(nano_cpus=1_500_000_000)) == 2
    assert cpus(Resources(nano_cpus=700_000_000), Resources(cpu_quota=50_000)) == 2


def test_hosts_and_resolvers_of_a_pod() -> None:
    binding = Binding(pod_id="p", network_id="n", mac="02:00:00:00:00:01", address="10.1.0.2/24", gateway="10.1.0.1",
                      tap="t", bridge="b", dns=("9.9.9.9",), mtu=1500)
    record = pod(PodSpec(extra_hosts=("db:10.0.0.9", "host:host-gateway", "six:fe80::1"), dns_search=("a", "b")),
                 binding=binding)
    files = {f.path: f.data.decode() for f in launch.creation(
        record, container(), ContainerDisks(layers=("l",), writable="w")).files}
    assert files[b"/etc/hostname"] == "abcdef012345\n"
    assert files[b"/etc/resolv.conf"] == "nameserver 9.9.9.9\nsearch a b\n"
    assert "10.0.0.9\tdb\n10.1.0.1\thost\nfe80::1\tsix\n10.1.0.2\tabcdef012345\n" in files[b"/etc/hosts"]


def test_on_a_network_with_names_its_resolver_is_asked_whatever_servers_the_pod_has() -> None:
    binding = Binding(pod_id="p", network_id="n", mac="02:00:00:00:00:01", address="10.1.0.2/24", gateway="10.1.0.1",
                      tap="t", bridge="b", dns=("10.1.0.1",), mtu=1400, names=("web",), servers=("9.9.9.9",))

    def resolv_conf(spec: PodSpec) -> str:
        files = launch.creation(pod(spec, binding=binding), container(),
                                ContainerDisks(layers=("l",), writable="w")).files
        return next(file.data.decode() for file in files if file.path == b"/etc/resolv.conf")

    assert resolv_conf(PodSpec(dns=("9.9.9.9",))) == "nameserver 127.0.0.11\noptions ndots:0\n"
    assert resolv_conf(PodSpec(dns_options=("ndots:2", "rotate"))) == "nameserver 127.0.0.11\noptions ndots:2 rotate\n"
    told = launch.configuration(pod(binding=binding), {}).net
    assert told is not None
    assert (told.resolver, told.mtu) == ("10.1.0.1", 1400)


def test_privileged_means_everything_within_the_machine() -> None:
    plain = launch.main_process(pod(), container())
    strong = launch.main_process(pod(), container(security=Security(privileged=True)))
    assert plain.seccomp
    assert not strong.seccomp
    assert set(plain.capabilities) < set(strong.capabilities)
    created = launch.creation(pod(), container(security=Security(privileged=True)),
                              ContainerDisks(layers=("l",), writable="w"))
    assert created.masked == ()


def test_restart_policies() -> None:
    def wants(kind: RestartKind, code: int, count: int = 0, retries: int = 0, stopped: bool = False) -> bool:
        return restarts.wants_restart(RestartPolicy(kind=kind, max_retries=retries), exit_code=code,
                                      restart_count=count, manually_stopped=stopped)
    assert not wants(RestartKind.NO, 1)
    assert wants(RestartKind.ALWAYS, 0)
    assert not wants(RestartKind.ALWAYS, 0, stopped=True)
    assert wants(RestartKind.ON_FAILURE, 1, count=99)
    assert not wants(RestartKind.ON_FAILURE, 0)
    assert [wants(RestartKind.ON_FAILURE, 1, count=n, retries=2) for n in range(4)] == [True, True, False, False]


def test_the_back_off_doubles_up_to_a_minute_and_begins_anew_after_a_long_run() -> None:
    second, waits = 10**9, [0]
    for ran in (*[0] * 12, 10 * second, 10 * second - 1, 0):
        waits.append(restarts.backoff_ns(waits[-1], ran_ns=ran))
    assert [wait / second for wait in waits[1:]] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60, 0.1, 0.2, 0.4]
