"""What the operations take."""

from __future__ import annotations

from tests.reference.schema import (
    BOOL,
    COUNT,
    EMPTY,
    INT,
    STRINGS,
    TEXT,
    WORDS,
    array,
    body,
    integer,
    mapping,
    nullable,
    one_of,
)

_SMALL = integer(-(2**31), 2**31 - 1)
_THROTTLE = array(body(Path=TEXT, Rate=COUNT))
_HEALTH = body(Test=STRINGS, Interval=INT, Timeout=INT, Retries=_SMALL, StartPeriod=INT, StartInterval=INT)
RESOURCES = {
    "CpuShares": INT, "Memory": INT, "CgroupParent": TEXT, "BlkioWeight": integer(0, 65535),
    "BlkioWeightDevice": array(body(Path=TEXT, Weight=integer(0, 65535))), "BlkioDeviceReadBps": _THROTTLE,
    "BlkioDeviceWriteBps": _THROTTLE, "BlkioDeviceReadIOps": _THROTTLE, "BlkioDeviceWriteIOps": _THROTTLE,
    "CpuPeriod": INT, "CpuQuota": INT, "CpuRealtimePeriod": INT, "CpuRealtimeRuntime": INT, "CpusetCpus": TEXT,
    "CpusetMems": TEXT, "Devices": array(body(PathOnHost=TEXT, PathInContainer=TEXT, CgroupPermissions=TEXT)),
    "DeviceCgroupRules": STRINGS, "DeviceRequests": array(body(
        Driver=TEXT, Count=_SMALL, DeviceIDs=STRINGS, Capabilities=array(STRINGS), Options=WORDS)),
    "MemoryReservation": INT, "MemorySwap": INT, "MemorySwappiness": INT, "NanoCpus": INT, "OomKillDisable": BOOL,
    "Init": nullable(BOOL), "PidsLimit": nullable(INT), "Ulimits": array(body(Name=TEXT, Soft=INT, Hard=INT)),
    "CpuCount": INT, "CpuPercent": INT, "IOMaximumIOps": COUNT, "IOMaximumBandwidth": COUNT}
_RESTART = body(Name=one_of("", "no", "always", "unless-stopped", "on-failure"), MaximumRetryCount=_SMALL)
_MOUNT = body(
    Target=TEXT, Source=TEXT, Type=one_of("bind", "cluster", "image", "npipe", "tmpfs", "volume"), ReadOnly=BOOL,
    Consistency=TEXT, BindOptions=body(
        Propagation=TEXT, NonRecursive=BOOL, CreateMountpoint=BOOL, ReadOnlyNonRecursive=BOOL,
        ReadOnlyForceRecursive=BOOL),
    VolumeOptions=body(NoCopy=BOOL, Labels=WORDS, DriverConfig=body(Name=TEXT, Options=WORDS), Subpath=TEXT),
    ImageOptions=body(Subpath=TEXT),
    TmpfsOptions=body(SizeBytes=INT, Mode=integer(0, 2**32 - 1), Options=array(STRINGS)))
_PORTS = mapping(nullable(array(body(HostIp=TEXT, HostPort=TEXT))))
_HOST_CONFIG = body(
    **RESOURCES, Binds=STRINGS, ContainerIDFile=TEXT, LogConfig=body(Type=TEXT, Config=WORDS), NetworkMode=TEXT,
    PortBindings=_PORTS, RestartPolicy=_RESTART, AutoRemove=BOOL, VolumeDriver=TEXT, VolumesFrom=STRINGS,
    Mounts=array(_MOUNT), ConsoleSize=nullable(array(COUNT)), Annotations=WORDS, CapAdd=STRINGS, CapDrop=STRINGS,
    CgroupnsMode=one_of("", "private", "host"), Dns=STRINGS, DnsOptions=STRINGS, DnsSearch=STRINGS, ExtraHosts=STRINGS,
    GroupAdd=STRINGS, IpcMode=TEXT, Cgroup=TEXT, Links=STRINGS, OomScoreAdj=_SMALL, PidMode=TEXT, Privileged=BOOL,
    PublishAllPorts=BOOL, ReadonlyRootfs=BOOL, SecurityOpt=STRINGS, StorageOpt=WORDS, Tmpfs=WORDS, UTSMode=TEXT,
    UsernsMode=TEXT, ShmSize=INT, Sysctls=nullable(WORDS), Runtime=nullable(TEXT), Isolation=TEXT,
    MaskedPaths=nullable(STRINGS), ReadonlyPaths=nullable(STRINGS))
ENDPOINT = body(
    IPAMConfig=nullable(body(IPv4Address=TEXT, IPv6Address=TEXT, LinkLocalIPs=STRINGS)), Links=STRINGS, Aliases=STRINGS,
    MacAddress=TEXT, DriverOpts=nullable(WORDS), GwPriority=INT, NetworkID=TEXT, EndpointID=TEXT, Gateway=TEXT,
    IPAddress=TEXT, IPPrefixLen=INT, IPv6Gateway=TEXT, GlobalIPv6Address=TEXT, GlobalIPv6PrefixLen=INT,
    DNSNames=nullable(STRINGS))
CONFIG = {
    "Hostname": TEXT, "Domainname": TEXT, "User": TEXT, "AttachStdin": BOOL, "AttachStdout": BOOL,
    "AttachStderr": BOOL, "ExposedPorts": mapping(EMPTY), "Tty": BOOL, "OpenStdin": BOOL, "StdinOnce": BOOL,
    "Env": STRINGS, "Cmd": STRINGS, "ArgsEscaped": nullable(BOOL), "Healthcheck": _HEALTH, "Image": TEXT,
    "Volumes": mapping(EMPTY), "WorkingDir": TEXT, "Entrypoint": STRINGS, "NetworkDisabled": nullable(BOOL),
    "OnBuild": nullable(STRINGS), "Labels": WORDS, "StopSignal": nullable(TEXT), "StopTimeout": nullable(_SMALL),
    "Shell": nullable(STRINGS)}
CREATE = body(("Image",), **CONFIG, HostConfig=_HOST_CONFIG,
              NetworkingConfig=body(EndpointsConfig=mapping(nullable(ENDPOINT))))
COMMIT = body(**CONFIG)
UPDATE = body(**RESOURCES, RestartPolicy=_RESTART)
EXEC_CREATE = body(
    AttachStdin=BOOL, AttachStdout=BOOL, AttachStderr=BOOL, ConsoleSize=nullable(array(COUNT)), DetachKeys=TEXT,
    Tty=BOOL, Env=STRINGS, Cmd=STRINGS, Privileged=BOOL, User=TEXT, WorkingDir=TEXT)
EXEC_START = body(Detach=BOOL, Tty=BOOL, ConsoleSize=nullable(array(COUNT)))
AUTH = body(username=TEXT, password=TEXT, serveraddress=TEXT, identitytoken=TEXT)
VOLUME_CREATE = body(Name=TEXT, Driver=TEXT, DriverOpts=WORDS, Labels=WORDS, ClusterVolumeSpec=nullable(body()))
NETWORK_CREATE = body(
    ("Name",), Name=TEXT, Driver=TEXT, Scope=TEXT, Internal=BOOL, Attachable=BOOL, Ingress=BOOL, ConfigOnly=BOOL,
    ConfigFrom=body(Network=TEXT), EnableIPv4=BOOL, EnableIPv6=BOOL, Options=WORDS, Labels=WORDS, IPAM=body(
        Driver=TEXT, Options=WORDS, Config=array(body(
            Subnet=TEXT, IPRange=TEXT, Gateway=TEXT, AuxiliaryAddresses=WORDS))))
CONNECT = body(("Container",), Container=TEXT, EndpointConfig=nullable(ENDPOINT))
DISCONNECT = body(("Container",), Container=TEXT, Force=BOOL)
SPEC = body(Name=TEXT, Labels=WORDS)
"""Of a swarm's objects, which are not here."""
