"""What a container is to share with another one: NetworkMode, PidMode and IpcMode."""

from __future__ import annotations

from hyperstack.docker_api.bodies import CreateBody
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import Sharing

_NO_NETWORK = "invalid network mode: invalid container format container:<name|id>"
_OWN_IPC = ("private", "shareable", "none")


def donor(mode: str, complaint: str) -> str:
    """The container that `container:REF` names; empty for other modes.

    :raise InvalidArgument: it names none; in the words of `complaint`.
    """
    kind, colon, ref = mode.partition(":")
    if kind != "container":
        return ""
    if not colon or not ref:
        raise InvalidArgument(complaint, field="HostConfig", value=mode[:64], hint="container:NAME")
    return ref.removeprefix("/")


def parse_sharing(body: CreateBody) -> Sharing:
    """:raise InvalidArgument: options that exclude each other, in Docker's words.
    :raise UnsupportedOption: a namespace of the host, or a network beside the one that is shared."""
    host = body.host_config
    pid, ipc = f"invalid PID mode: {host.pid_mode[:64]}", f"invalid IPC mode: {host.ipc_mode[:64]}"
    _refuse_host("PidMode", host.pid_mode, ("",), "processes of the host cannot be seen from inside a VM", pid)
    _refuse_host("IpcMode", host.ipc_mode, ("", *_OWN_IPC), "IPC objects of the host cannot be seen from inside a VM",
                 ipc)
    sharing = Sharing(network=donor(host.network_mode, _NO_NETWORK), pid=donor(host.pid_mode, pid),
                      ipc=donor(host.ipc_mode, ipc),
                      ipc_mode="shareable" if host.ipc_mode == "shareable" else "none" if host.ipc_mode == "none"
                      else "private")
    if sharing.donors:
        _check_network(body, sharing)
    return sharing


def _refuse_host(field: str, mode: str, own: tuple[str, ...], reason: str, complaint: str) -> None:
    if mode not in (*own, "host") and not donor(mode, complaint):
        raise InvalidArgument(complaint, field=f"HostConfig.{field}", value=mode[:64],
                              hint=", ".join((*filter(None, own), "container:NAME")))
    if mode == "host":
        raise UnsupportedOption(f"HostConfig.{field}={mode[:64]}", reason, hint="container:NAME shares another's")


def _check_network(body: CreateBody, sharing: Sharing) -> None:
    """Whoever shares anything is in the other's VM, and so has its network, names and ports."""
    host = body.host_config
    if not sharing.network and host.network_mode not in ("", "default", "bridge"):
        raise UnsupportedOption(f"HostConfig.NetworkMode={host.network_mode[:64]}", "containers that share PIDs or IPC "
                                "are in one VM, which has one network", hint=f"--network container:{sharing.donors[0]}")
    mode = "the container type network mode"
    for field, wrong, message in (
            ("Hostname", body.hostname or body.domainname, "conflicting options: hostname and the network mode"),
            ("HostConfig.Links", host.links, "conflicting options: container type network can't be used with links. "
                                             "This would result in undefined behavior"),
            ("HostConfig.Dns", host.dns or host.dns_search or host.dns_options,
             "conflicting options: dns and the network mode"),
            ("HostConfig.ExtraHosts", host.extra_hosts,
             "conflicting options: custom host-to-IP mapping and the network mode"),
            ("MacAddress", body.mac_address, "conflicting options: mac-address and the network mode"),
            ("HostConfig.PortBindings", host.port_bindings or host.publish_all_ports,
             f"conflicting options: port publishing and {mode}"),
            ("ExposedPorts", body.exposed_ports, f"conflicting options: port exposing and {mode}"),
            ("HostConfig.Sysctls", host.sysctls, f"conflicting options: sysctls and {mode}"),
            ("HostConfig.CpusetCpus", host.cpuset_cpus, f"conflicting options: CPUs and {mode}"),
            ("HostConfig.Annotations", "org.hyperstack.kernel" in host.annotations,
             f"conflicting options: a kernel and {mode}")):
        if wrong:
            raise InvalidArgument(message, field=field, hint="give it to the container whose network is shared")
    if any(name.partition(":")[0] != "container" and name not in ("default", "bridge")
           for name in body.networking_config.endpoints_config):
        raise InvalidArgument("conflicting options: cannot attach both user-defined and non-user-defined "
                              "network-modes", field="NetworkingConfig.EndpointsConfig")
