"""Kubernetes' Pod (v1): the fields that are honoured, and the table of those that are refused.

Everything that is in neither is unknown. `docs/manifest.md` is the same for people; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from hyperstack.native_api.quantities import Quantity
from hyperstack.native_api.strict import Refused

Id = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=7 * 24 * 3600)]


class Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camelCase names, as Kubernetes writes them."""


class Metadata(Object, frozen=True):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class EnvVar(Object, frozen=True):
    name: str
    value: str = ""


class ContainerPort(Object, frozen=True):
    container_port: Port
    protocol: str = "TCP"
    name: str = ""
    host_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    host_ip: str = msgspec.field(default="", name="hostIP")


class ResourceRequirements(Object, frozen=True):
    limits: dict[str, Quantity] = {}
    requests: dict[str, Quantity] = {}


class VolumeMount(Object, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False


class Capabilities(Object, frozen=True):
    add: list[str] = []
    drop: list[str] = []


class SeccompProfile(Object, frozen=True):
    type: str




class SecurityContext(Object, frozen=True):
    """Of a container; it overrides the pod's."""

    run_as_user: Id | None = None
    run_as_group: Id | None = None
    run_as_non_root: bool | None = None
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    proc_mount: str = "Default"
    seccomp_profile: SeccompProfile | None = None


class Container(Object, frozen=True):
    name: str
    image: str
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[EnvVar] = []
    working_dir: str = ""
    ports: list[ContainerPort] = []
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    volume_mounts: list[VolumeMount] = []
    image_pull_policy: str = "IfNotPresent"
    security_context: SecurityContext = msgspec.field(default_factory=SecurityContext)
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class EmptyDir(Object, frozen=True):
    medium: str = ""
    size_limit: Quantity | None = None


class Volume(Object, frozen=True):
    name: str
    empty_dir: EmptyDir | None = None


class Sysctl(Object, frozen=True):
    name: str
    value: str


class PodSecurityContext(Object, frozen=True):
    run_as_user: Id | None = None
    run_as_group: Id | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[Id] = []
    sysctls: list[Sysctl] = []
    seccomp_profile: SeccompProfile | None = None


class DnsOption(Object, frozen=True):
    name: str
    value: str | None = None


class DnsConfig(Object, frozen=True):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[DnsOption] = []


class HostAlias(Object, frozen=True):
    ip: str
    hostnames: list[str] = []


class Spec(Object, frozen=True):
    containers: list[Container]
    init_containers: list[Container] = []
    volumes: list[Volume] = []
    restart_policy: str = "Always"
    termination_grace_period_seconds: Seconds = 30
    share_process_namespace: bool = False
    security_context: PodSecurityContext = msgspec.field(default_factory=PodSecurityContext)
    hostname: str = ""
    subdomain: str = ""
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = msgspec.field(default_factory=DnsConfig)
    host_aliases: list[HostAlias] = []


class Pod(Object, frozen=True):
    api_version: str
    kind: str
    metadata: Metadata
    spec: Spec


_CLUSTER = "one host has no cluster that would act on it"
_SCHEDULER = "there is no scheduler on a single host"
_HOST = "a pod's VM shares nothing with the host"
_PROBES = "containers are not probed"
_STORED = "it belongs to an object that a cluster stores"
_SOURCES = "values from other objects need a cluster"
_VOLUMES = "only emptyDir volumes exist here"
_WINDOWS = "it is an option of Windows pods"
_MODULES = "the guest's kernel has no such security module"
_VALUE = "write the value itself"

REFUSED: dict[type, dict[str, Refused]] = {
    Pod: {"status": Refused(_STORED)},
    Metadata: {
        "generateName": Refused("names are not made up", hint="give metadata.name"),
        **{name: Refused(_STORED) for name in
           ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
            "deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields", "selfLink")},
    },
    Spec: {
        "ephemeralContainers": Refused("containers are not added to a running pod", hint="use exec"),
        "hostNetwork": Refused(_HOST, (False,), "publish ports with hostPort"),
        "hostPID": Refused(_HOST, (False,)), "hostIPC": Refused(_HOST, (False,)),
        "hostUsers": Refused("root in the VM is nobody on the host already", (True,)),
        "hostnameOverride": Refused("the host name is what spec.hostname says", hint="use hostname"),
        "setHostnameAsFQDN": Refused("the host name is the short one", (False,)),
        "activeDeadlineSeconds": Refused("pods have no deadline"),
        "imagePullSecrets": Refused(_SOURCES, hint="pull the image first, with hyperctl image pull"),
        "serviceAccountName": Refused(_CLUSTER, ("default",)), "serviceAccount": Refused(_CLUSTER, ("default",)),
        "automountServiceAccountToken": Refused(_CLUSTER, (False,)),
        "enableServiceLinks": Refused("there are no services to link", (False, True)),
        "schedulerName": Refused(_SCHEDULER, ("default-scheduler",)),
        "preemptionPolicy": Refused(_SCHEDULER, ("PreemptLowerPriority",)), "priority": Refused(_SCHEDULER, (0,)),
        "runtimeClassName": Refused("every pod is a VM here", ("hyperstack",),
                                    "choose a kernel with the annotation org.hyperstack.kernel"),
        "os": Refused("the guest is Linux", ({"name": "linux"},)),
        "resources": Refused("limits are set per container", hint="use spec.containers[].resources"),
        **{name: Refused(_SCHEDULER) for name in
           ("nodeSelector", "nodeName", "affinity", "tolerations", "topologySpreadConstraints", "priorityClassName",
            "schedulingGates", "readinessGates", "overhead", "resourceClaims", "schedulingGroup", "workloadRef")},
    },
    Container: {
        "envFrom": Refused(_SOURCES, hint=_VALUE),
        "livenessProbe": Refused(_PROBES), "readinessProbe": Refused(_PROBES), "startupProbe": Refused(_PROBES),
        "lifecycle": Refused("hooks are not run", hint="wrap the command"),
        "restartPolicy": Refused("all containers of a pod have the pod's policy; there are no sidecars"),
        "restartPolicyRules": Refused("all containers of a pod have the pod's policy"),
        "resizePolicy": Refused("limits change without a restart"),
        "volumeDevices": Refused(_VOLUMES),
        "terminationMessagePath": Refused("no message is read from the container", ("/dev/termination-log",)),
        "terminationMessagePolicy": Refused("no message is read from the container", ("File",)),
    },
    EnvVar: {"valueFrom": Refused(_SOURCES, hint=_VALUE)},
    ResourceRequirements: {"claims": Refused("no device of the host is passed through to VMs")},
    VolumeMount: {
        "subPath": Refused("volumes are mounted whole"), "subPathExpr": Refused("volumes are mounted whole"),
        "mountPropagation": Refused("a volume is mounted in one VM, where nothing propagates", ("None",)),
        "recursiveReadOnly": Refused("a volume has no mounts in it", ("Disabled",)),
    },
    Volume: {name: Refused(_VOLUMES, hint="use emptyDir, or containers with named volumes (hyperctl run -v)")
             for name in ("awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi",
                          "downwardAPI", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo",
                          "glusterfs", "hostPath", "image", "iscsi", "nfs", "persistentVolumeClaim",
                          "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd", "scaleIO", "secret",
                          "storageos", "vsphereVolume")},
    SecurityContext: {"seLinuxOptions": Refused(_MODULES), "windowsOptions": Refused(_WINDOWS),
                      "appArmorProfile": Refused(_MODULES, ({"type": "Unconfined"},))},
    SeccompProfile: {"localhostProfile": Refused("profiles of the host are not loaded", hint="RuntimeDefault")},
    PodSecurityContext: {
        "fsGroup": Refused("volumes keep the owners of their files", hint="use runAsGroup or supplementalGroups"),
        "fsGroupChangePolicy": Refused("volumes keep the owners of their files"),
        "supplementalGroupsPolicy": Refused("the image's own groups count too", ("Merge",)),
        "seLinuxOptions": Refused(_MODULES), "seLinuxChangePolicy": Refused(_MODULES),
        "windowsOptions": Refused(_WINDOWS), "appArmorProfile": Refused(_MODULES, ({"type": "Unconfined"},)),
    },
    ContainerPort: {},
}
