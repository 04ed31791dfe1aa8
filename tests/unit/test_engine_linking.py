"""Links of the default network: whom a container knows, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hyperstack.engine.machines import linking
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.network.api import Binding
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound
from hyperstack.pod.spec import ContainerSpec, ImageConfig, PodSpec, Sharing
from hyperstack.pod.states import ContainerState


class Site:
    def __init__(self, store: Store) -> None:
        self.store = store

    def container(self, name: str, *, state: ContainerState = ContainerState.RUNNING, project: str = "alpha",
                  network: str = "bridge", links: tuple[str, ...] = (), **spec: Any) -> ContainerRecord:
        number = len(self.store.pods.all()) + 2
        binding = Binding(pod_id=f"p{name}", network_id="n", network=network, mac="02:00:00:00:00:01",
                          address=f"10.1.0.{number}/24", gateway="10.1.0.1", tap="t", bridge="b", dns=(), mtu=1500,
                          address6=f"fd00::{number}/64" if name == "six" else "")
        self.store.pods.put(PodRecord(id=f"p{name}", name=name, project=project, created_at=1, implicit=True,
                                      spec=PodSpec(network=network, hostname=f"h{name}"), binding=binding))
        asked = linking.resolve(self.store, project, ContainerSpec(image="i", links=links, **spec))
        image = ImageConfig(env=("PATH=/bin", "A=image", "B=image"), exposed_ports=("81/tcp", "53/udp", "strange"))
        return self.store.containers.put(ContainerRecord(
            id=name.encode().hex().ljust(64, "0"), pod_id=f"p{name}", project=project, name=name, state=state,
            image_id="i", spec=asked, image_config=image, created_at=1))

    def pod(self, name: str) -> PodRecord:
        pod = self.store.pods.get(f"p{name}")
        assert pod is not None
        return pod


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = Store(tmp_path / "engine.db")
    yield Site(store)
    store.close()


def test_what_a_container_is_told_of_another(site: Site) -> None:
    site.container("db", env=("A=user", "B", "HOME=/root"), exposed_ports=("80/tcp", "82/tcp"))
    web = site.container("web", links=("db:my-db",))
    address = "10.1.0.2"
    assert linking.environment(site.store, web) == (
        f"MY_DB_PORT=tcp://{address}:80",
        *(line for port in (80, 81, 82) for line in (
            f"MY_DB_PORT_{port}_TCP=tcp://{address}:{port}", f"MY_DB_PORT_{port}_TCP_ADDR={address}",
            f"MY_DB_PORT_{port}_TCP_PORT={port}", f"MY_DB_PORT_{port}_TCP_PROTO=tcp")),
        f"MY_DB_PORT_53_UDP=udp://{address}:53", f"MY_DB_PORT_53_UDP_ADDR={address}", "MY_DB_PORT_53_UDP_PORT=53",
        "MY_DB_PORT_53_UDP_PROTO=udp", f"MY_DB_PORT_80_TCP_START=tcp://{address}:80", "MY_DB_PORT_80_TCP_PORT_START=80",
        f"MY_DB_PORT_80_TCP_END=tcp://{address}:82", "MY_DB_PORT_80_TCP_PORT_END=82",
        "MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=user")


def test_names_of_others_are_in_the_file_of_hosts_while_they_run(site: Site) -> None:
    db, six = site.container("db"), site.container("six")
    site.container("web", links=("db:store", "six", "db:store"))
    assert linking.hosts(site.store, site.pod("web")) == (
        ("10.1.0.2", "store hdb db"), ("10.1.0.3", "six hsix"), ("fd00::3", "six hsix"))
    site.store.containers.put(replace(db, name="fresh"))
    site.store.containers.put(replace(six, state=ContainerState.EXITED))
    assert linking.hosts(site.store, site.pod("web")) == (("10.1.0.2", "store hdb fresh"),)
    assert linking.linkers(site.store, db) == {"pweb"}


def test_whom_one_cannot_link_to(site: Site) -> None:
    db = site.container("db")
    with pytest.raises(InvalidArgument, match="could not get container for absent: No such container: absent"):
        site.container("web", links=("absent:x",))
    with pytest.raises(InvalidArgument, match="could not get container for db"):
        site.container("web", project="beta", links=("db:db",))
    web = site.container("web", links=("db:x",))
    linking.check(site.store, web)
    site.store.containers.put(replace(db, state=ContainerState.EXITED))
    for refuse in (linking.check, linking.environment):
        with pytest.raises(Conflict, match="Cannot link to a non running container: /db AS /web/x"):
            refuse(site.store, web)
    site.store.containers.put(db)
    site.store.pods.put(replace(site.pod("db"), binding=None))
    with pytest.raises(Conflict, match="not attached to default bridge network"):
        linking.environment(site.store, web)


def test_a_link_means_something_on_the_default_network_alone_and_goes_with_the_other(site: Site) -> None:
    db = site.container("db")
    elsewhere = site.container("web", network="front", links=("db:x",))
    assert (linking.environment(site.store, elsewhere), linking.hosts(site.store, site.pod("web"))) == ((), ())
    beside = site.container("beside", sharing=Sharing(network=db.id))
    app = site.container("app", links=("beside:x", "db:y"))
    assert {other.name for _, other in linking.others(site.store, app)} == {"db"}, beside.name
    linking.unlink(site.store, app, "x")
    app = site.store.containers.get(app.id) or app
    assert [alias for alias, _ in linking.others(site.store, app)] == ["y"]
    with pytest.raises(NotFound):
        linking.unlink(site.store, app, "x")
    site.store.containers.delete(db.id)
    assert linking.environment(site.store, app) == ()
