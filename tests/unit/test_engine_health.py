"""What a container's probes say of it: Docker's rules, without a container."""

from __future__ import annotations

from msgspec.structs import replace

from hyperstack.engine.lives.health import command, effective, judge
from hyperstack.engine.records import ContainerRecord, HealthProbe, HealthRecord, HealthStatus
from hyperstack.pod.spec import ContainerSpec, Healthcheck, ImageConfig

SECOND = 10**9
CHECK = Healthcheck(test=("CMD", "true"), interval=SECOND, timeout=SECOND, retries=2)
NEW = HealthRecord(id="c", project="default", status=HealthStatus.STARTING)


def container(asked: Healthcheck | None, image: ImageConfig) -> ContainerRecord:
    return ContainerRecord(id="c", pod_id="p", project="default", name="c", created_at=1, image_id="sha256:0",
                           spec=ContainerSpec(image="busybox", healthcheck=asked), image_config=image)


def probe(code: int, at: int = 0) -> HealthProbe:
    return HealthProbe(started_at=at, ended_at=at + 1, exit_code=code, output="")


def after(*codes: int, check: Healthcheck = CHECK, at: int = 0) -> HealthRecord:
    health = NEW
    for code in codes:
        health = judge(health, probe(code, at), check, started_at=0)
    return health


def test_the_first_success_makes_it_healthy_and_enough_failures_unhealthy() -> None:
    assert after(0).status is HealthStatus.HEALTHY
    assert (after(1).status, after(1).failing_streak) == (HealthStatus.STARTING, 1)
    assert after(1, 1).status is HealthStatus.UNHEALTHY
    assert (after(0, 1).status, after(0, 1, 1).status) == (HealthStatus.HEALTHY, HealthStatus.UNHEALTHY)
    assert (after(1, 1, 0).status, after(1, 1, 0).failing_streak) == (HealthStatus.HEALTHY, 0)


def test_failures_in_the_start_period_do_not_count_until_it_was_well_once() -> None:
    patient = replace(CHECK, start_period=10 * SECOND)
    assert after(1, 1, 1, check=patient, at=9 * SECOND) == replace(NEW, log=(probe(1, 9 * SECOND),) * 3)
    assert after(1, 1, check=patient, at=10 * SECOND).status is HealthStatus.UNHEALTHY
    assert after(0, 1, 1, check=patient, at=SECOND).status is HealthStatus.UNHEALTHY


def test_the_last_five_probes_are_kept() -> None:
    assert [found.exit_code for found in after(1, 2, 3, 4, 5, 6, 7).log] == [3, 4, 5, 6, 7]


def test_a_check_is_the_users_then_the_images_then_the_default() -> None:
    image = ImageConfig(healthcheck=Healthcheck(test=("CMD", "image"), interval=7 * SECOND, retries=9))
    found = effective(container(Healthcheck(retries=4), image))
    assert found == Healthcheck(test=("CMD", "image"), interval=7 * SECOND, timeout=30 * SECOND, retries=4,
                                start_interval=5 * SECOND)
    assert effective(container(None, ImageConfig())) is None
    assert effective(container(Healthcheck(retries=4), ImageConfig())) is None
    assert effective(container(Healthcheck(test=("NONE",)), image)) is None


def test_a_line_is_for_the_containers_shell_then_the_images() -> None:
    line = Healthcheck(test=("CMD-SHELL", "a | b"))
    assert command(container(line, ImageConfig()), line) == ("/bin/sh", "-c", "a | b")
    assert command(container(line, ImageConfig(shell=("/bin/ash", "-ec"))), line) == ("/bin/ash", "-ec", "a | b")
    own = container(line, ImageConfig(shell=("/bin/ash", "-ec")))
    own = replace(own, spec=replace(own.spec, shell=("/bin/bash", "-c")))
    assert command(own, line) == ("/bin/bash", "-c", "a | b")
    assert command(container(CHECK, ImageConfig()), CHECK) == ("true",)
