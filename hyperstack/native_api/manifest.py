"""From a Kubernetes Pod manifest to a `PodSpec`."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeVar

from hyperstack.native_api import schema
from hyperstack.native_api.documents import parse_documents
from hyperstack.native_api.expansion import Expander
from hyperstack.native_api.quantities import Quantity, amount
from hyperstack.native_api.strict import read
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import (
    DEFAULT_PROJECT,
    KERNEL_ANNOTATION,
    NETWORK_ANNOTATION,
    ContainerSpec,
    Mount,
    MountKind,
    PodSpec,
    PortBinding,
    Resources,
    RestartKind,
    Security,
)

MAX_CONTAINERS = 64
MIN_MEMORY = 6 * 1024 * 1024
"""Bytes; Docker's own lower bound of a container's limit."""

_SHARES_PER_CPU = 1024
_NANO = 10**9
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,125}[a-z0-9])?\Z")
_ENV_NAME = re.compile(r"[^=\0]{1,1024}\Z")
_SYSCTL = re.compile(r"[a-z0-9_]+([./][a-zA-Z0-9_-]+)+\Z")
_CAPABILITY = re.compile(r"(CAP_)?[A-Z][A-Z0-9_]{1,40}\Z")
_RESTART = {"Always": RestartKind.ALWAYS, "OnFailure": RestartKind.ON_FAILURE, "Never": RestartKind.NO}
_PROTOCOLS: dict[str, Literal["tcp", "udp", "sctp"]] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_PULLS = {"Always": "Always", "IfNotPresent": "IfNotPresent", "Never": "Never"}
_MEDIA = {"": "", "Memory": "Memory"}
_SECCOMP: dict[str, Literal["default", "unconfined"]] = {"RuntimeDefault": "default", "Unconfined": "unconfined"}
_PROC_MOUNTS = {"Default": False, "Unmasked": True}
_DNS_POLICIES = {"ClusterFirst": True, "Default": True, "None": False}

T = TypeVar("T")


class Manifest(NamedTuple):
    """One pod, and how to get its images."""

    spec: PodSpec
    pulls: tuple[tuple[str, str], ...]
    """(image, Always | IfNotPresent | Never), each image once."""


def parse_manifests(raw: bytes, *, project: str = DEFAULT_PROJECT) -> list[Manifest]:
    """All pods of a YAML text (documents separated by ---) or a JSON object; at least one.

    :raise InvalidArgument: malformed, out of range, or an unknown field, with its path.
    :raise UnsupportedOption: a field of Kubernetes' that is not honoured here, with its path and the reason.
    """
    documents = parse_documents(raw)
    if not documents:
        raise InvalidArgument("the manifest is empty", field="manifest", hint="a Pod of apiVersion v1")
    return [parse_pod(document, project=project) for document in documents]


def parse_pod(document: Any, *, project: str = DEFAULT_PROJECT) -> Manifest:
    """One document. Errors as of `parse_manifests`."""
    kind, version = _head(document, "kind"), _head(document, "apiVersion")
    if (kind, version) != ("Pod", "v1"):
        raise InvalidArgument(f"kind {str(kind)[:64]!r} of apiVersion {str(version)[:64]!r} is not known here",
                              field="kind", value=str(kind)[:64], hint="kind: Pod and apiVersion: v1")
    pod = read(document, schema.Pod, schema.REFUSED)
    meta, spec = pod.metadata, pod.spec
    if not _SUBDOMAIN.match(meta.name):
        raise InvalidArgument(f"metadata.name {meta.name[:64]!r} is not a name", field="metadata.name",
                              value=meta.name[:64], hint="lower case letters, digits, '-' and '.', at most 127")
    volumes = _volumes(spec)
    if not spec.containers:
        raise InvalidArgument("spec.containers must not be empty", field="spec.containers")
    containers = [_Container(item, f"spec.containers[{index}]", spec, volumes)
                  for index, item in enumerate(spec.containers)]
    init = [_Container(item, f"spec.initContainers[{index}]", spec, volumes)
            for index, item in enumerate(spec.init_containers)]
    _check_names([*init, *containers])
    result = PodSpec(
        name=meta.name, project=project, namespace=meta.namespace, labels=meta.labels, annotations=meta.annotations,
        hostname=_host_label("spec.hostname", spec.hostname) or meta.name.partition(".")[0][:63],
        domainname=_host_label("spec.subdomain", spec.subdomain), kernel=meta.annotations.get(KERNEL_ANNOTATION, ""),
        network=meta.annotations.get(NETWORK_ANNOTATION, "bridge"),
        ports=tuple(port for container in containers for port in container.ports()),
        dns=_nameservers(spec), dns_search=tuple(spec.dns_config.searches),
        dns_options=tuple(f"{option.name}:{option.value}" if option.value is not None else option.name
                          for option in spec.dns_config.options),
        extra_hosts=tuple(_host_aliases(spec)), share_process_namespace=spec.share_process_namespace,
        restart=_choice("spec.restartPolicy", spec.restart_policy, _RESTART),
        init_containers=tuple(container.spec() for container in init),
        containers=tuple(container.spec() for container in containers), sysctls=_sysctls(spec),
        termination_grace_s=spec.termination_grace_period_seconds)
    return Manifest(result, tuple(_pulls([*init, *containers])))


def _head(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _choice(path: str, value: str, choices: dict[str, T]) -> T:
    if value not in choices:
        raise InvalidArgument(f"{path}: {value[:64]!r} is not one of {', '.join(filter(None, choices))}", field=path,
                              value=value[:64])
    return choices[value]


def _host_label(path: str, value: str) -> str:
    if value and not _LABEL.match(value):
        raise InvalidArgument(f"{path}: {value[:64]!r} is not a host name", field=path, value=value[:64],
                              hint="lower case letters, digits and '-', at most 63")
    return value


def _address(path: str, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise InvalidArgument(f"{path}: {value[:64]!r} is not an IP address", field=path, value=value[:64]) from error


def _volumes(spec: schema.Spec) -> dict[str, Mount]:
    """The emptyDirs by name, as mounts without a target."""
    found: dict[str, Mount] = {}
    for index, volume in enumerate(spec.volumes):
        path = f"spec.volumes[{index}]"
        if volume.empty_dir is None:
            raise InvalidArgument(f"{path}: a volume needs its source", field=path, hint="emptyDir: {}")
        if not _LABEL.match(volume.name) or volume.name in found:
            raise InvalidArgument(f"{path}.name: {volume.name[:64]!r} is no name, or there is another volume with it",
                                  field=f"{path}.name", value=volume.name[:64])
        # Both media are memory here: an emptyDir lives as long as the sandbox, and so does the VM's RAM.
        _choice(f"{path}.emptyDir.medium", volume.empty_dir.medium, _MEDIA)
        limit = volume.empty_dir.size_limit
        size = 0 if limit is None else amount(limit, f"{path}.emptyDir.sizeLimit")
        found[volume.name] = Mount(kind=MountKind.EMPTY_DIR, target="", source=volume.name, size=size)
    return found


def _nameservers(spec: schema.Spec) -> tuple[str, ...]:
    """The pod's own; none means: the host's resolvers, which are what ClusterFirst comes down to without a cluster."""
    servers = tuple(_address(f"spec.dnsConfig.nameservers[{index}]", server)
                    for index, server in enumerate(spec.dns_config.nameservers))
    if not _choice("spec.dnsPolicy", spec.dns_policy, _DNS_POLICIES) and not servers:
        raise InvalidArgument("spec.dnsPolicy None needs spec.dnsConfig.nameservers",
                              field="spec.dnsConfig.nameservers")
    return servers


def _host_aliases(spec: schema.Spec) -> Iterable[str]:
    for index, alias in enumerate(spec.host_aliases):
        path = f"spec.hostAliases[{index}]"
        address = _address(f"{path}.ip", alias.ip)
        for name in alias.hostnames:
            if not _SUBDOMAIN.match(name):
                raise InvalidArgument(f"{path}.hostnames: {name[:64]!r} is not a host name", field=f"{path}.hostnames",
                                      value=name[:64])
            yield f"{name}:{address}"


def _sysctls(spec: schema.Spec) -> dict[str, str]:
    for index, item in enumerate(spec.security_context.sysctls):
        if not _SYSCTL.match(item.name) or len(item.name) > 253:
            path = f"spec.securityContext.sysctls[{index}].name"
            raise InvalidArgument(f"{path}: {item.name[:64]!r} is not a sysctl", field=path, value=item.name[:64])
    return {item.name: item.value for item in spec.security_context.sysctls}


def _check_names(containers: list[_Container]) -> None:
    if len(containers) > MAX_CONTAINERS:
        raise InvalidArgument(f"more than {MAX_CONTAINERS} containers in one pod", field="spec.containers",
                              value=len(containers))
    seen: set[str] = set()
    for container in containers:
        name, path = container.body.name, f"{container.path}.name"
        if not _LABEL.match(name) or name in seen:
            raise InvalidArgument(f"{path}: {name[:64]!r} is no name, or there is another container with it",
                                  field=path, value=name[:64], hint="lower case letters, digits and '-', at most 63")
        seen.add(name)


def _pulls(containers: list[_Container]) -> Iterable[tuple[str, str]]:
    policies: dict[str, str] = {}
    for container in containers:
        body = container.body
        policy = _choice(f"{container.path}.imagePullPolicy", body.image_pull_policy, _PULLS)
        if policies.setdefault(body.image, policy) != policy:
            raise InvalidArgument(f"{container.path}.imagePullPolicy: another container has another policy for "
                                  f"{body.image[:128]}", field=f"{container.path}.imagePullPolicy", value=policy)
    return policies.items()


class _Container:
    """One container of the manifest, with what it takes from the pod."""

    def __init__(self, body: schema.Container, path: str, pod: schema.Spec, volumes: dict[str, Mount]) -> None:
        self.body = body
        self.path = path
        self._pod = pod
        self._volumes = volumes

    def spec(self) -> ContainerSpec:
        body = self.body
        if not body.image:
            raise InvalidArgument(f"{self.path}.image must not be empty", field=f"{self.path}.image")
        if body.working_dir and not body.working_dir.startswith("/"):
            raise InvalidArgument(f"{self.path}.workingDir: {body.working_dir[:64]!r} is not an absolute path",
                                  field=f"{self.path}.workingDir", value=body.working_dir[:64])
        words = self._expander()
        return ContainerSpec(
            image=body.image, name=body.name,
            entrypoint=None if body.command is None else words.expand(body.command, f"{self.path}.command"),
            command=None if body.args is None else words.expand(body.args, f"{self.path}.args"),
            env=tuple(f"{name}={value}" for name, value in words.variables.items()), working_dir=body.working_dir,
            user=self._user(), tty=body.tty, open_stdin=body.stdin,
            stdin_once=body.stdin_once, mounts=tuple(self._mounts()), resources=self._resources(),
            security=self._security(), disk_size=self._quantity("ephemeral-storage"),
            exposed_ports=tuple(f"{port.container_port}/{self._protocol(index)}"
                                for index, port in enumerate(body.ports)))

    def _expander(self) -> Expander:
        for index, item in enumerate(self.body.env):
            if not _ENV_NAME.match(item.name):
                path = f"{self.path}.env[{index}].name"
                raise InvalidArgument(f"{path}: {item.name[:64]!r} cannot be the name of a variable", field=path,
                                      value=item.name[:64])
        return Expander(self.body.env, f"{self.path}.env")

    def _protocol(self, index: int) -> Literal["tcp", "udp", "sctp"]:
        return _choice(f"{self.path}.ports[{index}].protocol", self.body.ports[index].protocol, _PROTOCOLS)

    def ports(self) -> Iterable[PortBinding]:
        """Those that the host publishes."""
        for index, port in enumerate(self.body.ports):
            path, protocol = f"{self.path}.ports[{index}]", self._protocol(index)
            if port.host_port and protocol == "sctp":
                raise UnsupportedOption(f"{path}.protocol SCTP with a hostPort", "sctp ports are not published")
            if port.host_port:
                address = _address(f"{path}.hostIP", port.host_ip) if port.host_ip else ""
                yield PortBinding(container_port=port.container_port, protocol=protocol, host_ip=address,
                                  host_port=port.host_port)

    def _mounts(self) -> Iterable[Mount]:
        targets: set[str] = set()
        for index, item in enumerate(self.body.volume_mounts):
            path = f"{self.path}.volumeMounts[{index}]"
            if item.name not in self._volumes:
                raise InvalidArgument(f"{path}.name: there is no volume {item.name[:64]!r}", field=f"{path}.name",
                                      value=item.name[:64], hint="name one of spec.volumes")
            target = posixpath.normpath(item.mount_path)
            if not item.mount_path.startswith("/") or target in ("/", "//") or target in targets or len(target) > 4095:
                raise InvalidArgument(f"{path}.mountPath: {item.mount_path[:128]!r} must be absolute, not the root, "
                                      "and used once", field=f"{path}.mountPath", value=item.mount_path[:128])
            targets.add(target)
            volume = self._volumes[item.name]
            yield Mount(kind=volume.kind, source=volume.source, size=volume.size, target=target,
                        read_only=item.read_only)

    def _quantity(self, resource: str, *, scale: int = 1) -> int:
        """The limit of a resource; 0 for none. A request is what the VM guarantees anyway, up to the limit."""
        path, needs = f"{self.path}.resources", self.body.resources
        limit = self._amount(needs.limits, resource, f"{path}.limits.{resource}", scale)
        request = self._amount(needs.requests, resource, f"{path}.requests.{resource}", scale)
        if request and not limit and resource != "cpu":
            raise UnsupportedOption(f"{path}.requests.{resource} without a limit", "the VM is as large as the limits",
                                    hint=f"set limits.{resource}")
        if limit and request > limit:
            raise InvalidArgument(f"{path}.requests.{resource} must not be larger than the limit",
                                  field=f"{path}.requests.{resource}", value=str(needs.requests[resource])[:64])
        return limit

    def _amount(self, quantities: dict[str, Quantity], resource: str, path: str, scale: int) -> int:
        return amount(quantities[resource], path, scale=scale) if resource in quantities else 0

    def _resources(self) -> Resources:
        path, needs = f"{self.path}.resources", self.body.resources
        for kind, quantities in (("limits", needs.limits), ("requests", needs.requests)):
            for name in quantities:
                if name not in ("cpu", "memory", "ephemeral-storage"):
                    raise UnsupportedOption(f"{path}.{kind}.{name[:64]}", "a VM has no such resource",
                                            hint="cpu, memory or ephemeral-storage")
        memory = self._quantity("memory")
        if memory and memory < MIN_MEMORY:
            raise InvalidArgument(f"{path}.limits.memory must be at least 6Mi", field=f"{path}.limits.memory",
                                  value=memory, hint="Mi is 1024 times 1024 bytes, m a thousandth")
        wanted = self._amount(needs.requests, "cpu", f"{path}.requests.cpu", _SHARES_PER_CPU)
        return Resources(memory=memory, nano_cpus=self._quantity("cpu", scale=_NANO),
                         cpu_shares=min(max(wanted, 2), 262144) if wanted else 0)

    def _user(self) -> str:
        own, pod = self.body.security_context, self._pod.security_context
        user = own.run_as_user if own.run_as_user is not None else pod.run_as_user
        group = own.run_as_group if own.run_as_group is not None else pod.run_as_group
        path = f"{self.path}.securityContext"
        if user == 0 and self._non_root():
            raise InvalidArgument(f"{path}: runAsUser 0 contradicts runAsNonRoot", field=f"{path}.runAsUser", value=0)
        if user is None and group is not None:
            raise UnsupportedOption(f"{path}.runAsGroup without runAsUser", "the image's user is known by name only",
                                    hint="give runAsUser too")
        if user is None:
            return ""
        return str(user) if group is None else f"{user}:{group}"

    def _non_root(self) -> bool:
        own, pod = self.body.security_context, self._pod.security_context
        return bool(own.run_as_non_root if own.run_as_non_root is not None else pod.run_as_non_root)

    def _security(self) -> Security:
        own, pod = self.body.security_context, self._pod.security_context
        path = f"{self.path}.securityContext"
        if own.privileged and own.allow_privilege_escalation is False:
            raise InvalidArgument(f"{path}: privileged contradicts allowPrivilegeEscalation: false", field=path)
        profile = own.seccomp_profile or pod.seccomp_profile
        unmasked = _choice(f"{path}.procMount", own.proc_mount, _PROC_MOUNTS)
        return Security(
            privileged=own.privileged, cap_add=self._capabilities("add", own.capabilities.add),
            cap_drop=self._capabilities("drop", own.capabilities.drop),
            no_new_privileges=own.allow_privilege_escalation is False,
            # Without a profile Kubernetes means Unconfined; the default profile is the safer reading.
            seccomp="default" if profile is None else self._seccomp(f"{path}.seccompProfile.type", profile.type),
            read_only_rootfs=own.read_only_root_filesystem, masked_paths=() if unmasked else None,
            readonly_paths=() if unmasked else None, run_as_non_root=self._non_root(),
            supplemental_groups=tuple(pod.supplemental_groups))

    def _seccomp(self, path: str, kind: str) -> Literal["default", "unconfined"]:
        if kind == "Localhost":
            raise UnsupportedOption(f"{path} Localhost", "profiles of the host are not loaded", hint="RuntimeDefault")
        return _choice(path, kind, _SECCOMP)

    def _capabilities(self, verb: str, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if not _CAPABILITY.match(name):
                path = f"{self.path}.securityContext.capabilities.{verb}"
                raise InvalidArgument(f"{path}: {name[:64]!r} is not a capability", field=path, value=name[:64],
                                      hint="for instance NET_ADMIN, or ALL")
        return tuple(names)
