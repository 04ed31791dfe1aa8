"""What the operations answer."""

from __future__ import annotations

from tests.reference.schema import (
    ANY,
    BOOL,
    COUNT,
    DIGEST,
    EMPTY,
    HEX64,
    INT,
    MAYBE_STRINGS,
    MAYBE_WORDS,
    PORT,
    PORT_KEY,
    STRINGS,
    TEXT,
    TIME,
    UINT64,
    WORDS,
    Schema,
    array,
    integer,
    mapping,
    nullable,
    one_of,
    optional,
    record,
    string,
)

ERROR = record(message=string(minLength=1))
IDENT = record(Id=HEX64)
STATE = one_of("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = one_of("none", "starting", "healthy", "unhealthy")
SPACE = {"SpaceReclaimed": COUNT}

# -- networks, as containers see them

ENDPOINT = record(
    IPAMConfig=nullable(record(IPv4Address=optional(TEXT), IPv6Address=optional(TEXT), LinkLocalIPs=optional(STRINGS))),
    Links=MAYBE_STRINGS, Aliases=MAYBE_STRINGS, DriverOpts=MAYBE_WORDS, GwPriority=optional(INT), MacAddress=TEXT,
    NetworkID=TEXT, EndpointID=TEXT, Gateway=TEXT, IPAddress=TEXT, IPPrefixLen=integer(0, 32), IPv6Gateway=TEXT,
    GlobalIPv6Address=TEXT, GlobalIPv6PrefixLen=integer(0, 128), DNSNames=MAYBE_STRINGS)
ENDPOINTS = mapping(ENDPOINT)
PORT_BINDING = record(HostIp=TEXT, HostPort=TEXT)
PORT_MAP = mapping(nullable(array(PORT_BINDING)), PORT_KEY)

# -- containers

MOUNT_POINT = record(
    Type=one_of("bind", "volume", "image", "tmpfs", "npipe", "cluster"), Name=optional(TEXT), Source=TEXT,
    Destination=string("^/"), Driver=optional(TEXT), Mode=TEXT, RW=BOOL, Propagation=TEXT)
PORT_SUMMARY = record(IP=optional(TEXT), PrivatePort=PORT, PublicPort=optional(PORT), Type=one_of("tcp", "udp", "sctp"))
CONTAINER_SUMMARY = record(
    Id=HEX64, Names=array(string("^/"), minItems=1), Image=TEXT, ImageID=DIGEST, Command=TEXT, Created=COUNT,
    Ports=array(PORT_SUMMARY), SizeRw=optional(COUNT), SizeRootFs=optional(COUNT), Labels=WORDS, State=STATE,
    Status=string(minLength=1), HostConfig=record(NetworkMode=TEXT, Annotations=optional(nullable(WORDS))),
    NetworkSettings=record(Networks=ENDPOINTS), Mounts=array(MOUNT_POINT),
    Health=record(Status=HEALTH, FailingStreak=COUNT), HyperStack=ANY)
HEALTH_CHECK = record(Test=optional(STRINGS), Interval=optional(COUNT), Timeout=optional(COUNT),
                      StartPeriod=optional(COUNT), StartInterval=optional(COUNT), Retries=optional(COUNT))
CONTAINER_STATE = record(
    Status=STATE, Running=BOOL, Paused=BOOL, Restarting=BOOL, OOMKilled=BOOL, Dead=BOOL, Pid=COUNT, ExitCode=INT,
    Error=TEXT, StartedAt=TIME, FinishedAt=TIME, Health=optional(record(
        Status=HEALTH, FailingStreak=COUNT,
        Log=array(record(Start=TIME, End=TIME, ExitCode=INT, Output=TEXT)))))
CONTAINER_CONFIG = record(
    Hostname=TEXT, Domainname=TEXT, User=TEXT, AttachStdin=BOOL, AttachStdout=BOOL, AttachStderr=BOOL,
    ExposedPorts=optional(mapping(EMPTY, PORT_KEY)), Tty=BOOL, OpenStdin=BOOL, StdinOnce=BOOL, Env=STRINGS,
    Cmd=MAYBE_STRINGS, Healthcheck=optional(HEALTH_CHECK), Image=TEXT, Volumes=nullable(mapping(EMPTY)),
    WorkingDir=TEXT, Entrypoint=MAYBE_STRINGS, OnBuild=optional(array(TEXT, minItems=1)), Labels=WORDS,
    StopSignal=optional(TEXT), StopTimeout=optional(INT), Shell=optional(STRINGS))
THROTTLE = nullable(array(record(Path=TEXT, Rate=COUNT)))
MOUNT = record(
    Type=TEXT, Source=optional(TEXT), Target=TEXT, ReadOnly=optional(BOOL), Consistency=optional(TEXT),
    BindOptions=optional(ANY), VolumeOptions=optional(ANY), ImageOptions=optional(ANY), TmpfsOptions=optional(ANY))
HOST_CONFIG = record(
    Binds=MAYBE_STRINGS, ContainerIDFile=TEXT, LogConfig=record(Type=TEXT, Config=WORDS), NetworkMode=TEXT,
    PortBindings=nullable(PORT_MAP), RestartPolicy=record(
        Name=one_of("", "no", "always", "unless-stopped", "on-failure"), MaximumRetryCount=COUNT),
    AutoRemove=BOOL, VolumeDriver=TEXT, VolumesFrom=MAYBE_STRINGS, Mounts=optional(array(MOUNT)),
    ConsoleSize=array(COUNT, minItems=2, maxItems=2), Annotations=optional(WORDS), CapAdd=MAYBE_STRINGS,
    CapDrop=MAYBE_STRINGS, CgroupnsMode=one_of("", "private", "host"), Dns=MAYBE_STRINGS,
    DnsOptions=MAYBE_STRINGS, DnsSearch=MAYBE_STRINGS, ExtraHosts=MAYBE_STRINGS, GroupAdd=MAYBE_STRINGS,
    IpcMode=TEXT, Cgroup=TEXT, Links=MAYBE_STRINGS,
    OomScoreAdj=INT, PidMode=TEXT, Privileged=BOOL, PublishAllPorts=BOOL, ReadonlyRootfs=BOOL,
    SecurityOpt=MAYBE_STRINGS, StorageOpt=optional(nullable(WORDS)), Tmpfs=optional(nullable(WORDS)), UTSMode=TEXT,
    UsernsMode=TEXT, ShmSize=COUNT, Sysctls=optional(nullable(WORDS)), Runtime=TEXT,
    Isolation=one_of("", "default", "process", "hyperv"), CpuShares=INT, Memory=INT, NanoCpus=INT, CgroupParent=TEXT,
    BlkioWeight=COUNT, BlkioWeightDevice=nullable(array(ANY)), BlkioDeviceReadBps=THROTTLE,
    BlkioDeviceWriteBps=THROTTLE, BlkioDeviceReadIOps=THROTTLE, BlkioDeviceWriteIOps=THROTTLE, CpuPeriod=INT,
    CpuQuota=INT, CpuRealtimePeriod=INT, CpuRealtimeRuntime=INT, CpusetCpus=TEXT, CpusetMems=TEXT,
    Devices=nullable(array(ANY)), DeviceCgroupRules=MAYBE_STRINGS, DeviceRequests=nullable(array(ANY)),
    MemoryReservation=INT, MemorySwap=INT, MemorySwappiness=nullable(INT), OomKillDisable=nullable(BOOL),
    Init=optional(nullable(BOOL)), PidsLimit=nullable(INT),
    Ulimits=nullable(array(record(Name=TEXT, Soft=INT, Hard=INT))), CpuCount=COUNT, CpuPercent=COUNT,
    IOMaximumIOps=COUNT, IOMaximumBandwidth=COUNT, MaskedPaths=nullable(STRINGS), ReadonlyPaths=nullable(STRINGS))
GRAPH_DRIVER = record(Name=TEXT, Data=MAYBE_WORDS)
CONTAINER = record(
    Id=HEX64, Created=TIME, Path=TEXT, Args=STRINGS, State=CONTAINER_STATE, Image=DIGEST, ResolvConfPath=TEXT,
    HostnamePath=TEXT, HostsPath=TEXT, LogPath=TEXT, Name=string("^/."), RestartCount=COUNT, Driver=TEXT,
    Platform=TEXT, MountLabel=TEXT, ProcessLabel=TEXT, AppArmorProfile=TEXT, ExecIDs=MAYBE_STRINGS,
    HostConfig=HOST_CONFIG, GraphDriver=GRAPH_DRIVER, SizeRw=optional(COUNT), SizeRootFs=optional(COUNT),
    Mounts=array(MOUNT_POINT), Config=CONTAINER_CONFIG,
    NetworkSettings=record(SandboxID=TEXT, SandboxKey=TEXT, Ports=PORT_MAP, Networks=ENDPOINTS), HyperStack=ANY)
CONTAINER_CREATED = record(Id=HEX64, Warnings=STRINGS)
CONTAINER_UPDATED = record(Warnings=MAYBE_STRINGS)
CONTAINER_TOP = record(Titles=STRINGS, Processes=array(STRINGS))
CONTAINER_WAIT = record(StatusCode=INT, Error=optional(record(Message=TEXT)))
CONTAINERS_PRUNED = record(ContainersDeleted=nullable(array(HEX64)), **SPACE)
CHANGES = nullable(array(record(Path=string("^/"), Kind=integer(0, 2))))

_BLKIO = nullable(array(record(major=UINT64, minor=UINT64, op=TEXT, value=UINT64)))
_CPU = record(
    cpu_usage=record(total_usage=UINT64, percpu_usage=optional(nullable(array(UINT64))), usage_in_kernelmode=UINT64,
                     usage_in_usermode=UINT64),
    system_cpu_usage=optional(UINT64), online_cpus=optional(COUNT),
    throttling_data=record(periods=UINT64, throttled_periods=UINT64, throttled_time=UINT64))
_TRAFFIC = record(**{f"{way}_{what}": UINT64 for way in ("rx", "tx")
                     for what in ("bytes", "packets", "errors", "dropped")})
CONTAINER_STATS = record(
    id=HEX64, name=string("^/."), os_type=one_of("linux"), read=TIME, preread=TIME, num_procs=COUNT,
    pids_stats=record(current=optional(UINT64), limit=optional(UINT64)), blkio_stats=record(
        io_service_bytes_recursive=_BLKIO, io_serviced_recursive=_BLKIO, io_queue_recursive=_BLKIO,
        io_service_time_recursive=_BLKIO, io_wait_time_recursive=_BLKIO, io_merged_recursive=_BLKIO,
        io_time_recursive=_BLKIO, sectors_recursive=_BLKIO),
    cpu_stats=_CPU, precpu_stats=_CPU, memory_stats=record(
        usage=optional(UINT64), max_usage=optional(UINT64), limit=optional(UINT64), failcnt=optional(UINT64),
        stats=optional(mapping(UINT64))),
    networks=optional(mapping(_TRAFFIC)), storage_stats=mapping(UINT64))
EXEC = record(
    ID=HEX64, Running=BOOL, ExitCode=nullable(INT), OpenStdin=BOOL, OpenStdout=BOOL, OpenStderr=BOOL, CanRemove=BOOL,
    ContainerID=HEX64, DetachKeys=TEXT, Pid=COUNT,
    ProcessConfig=record(tty=BOOL, entrypoint=TEXT, arguments=STRINGS, privileged=BOOL, user=optional(TEXT)))

# -- images

IMAGE_SUMMARY = record(
    Id=DIGEST, ParentId=TEXT, RepoTags=STRINGS, RepoDigests=STRINGS, Created=COUNT, Size=COUNT, SharedSize=integer(-1),
    Labels=MAYBE_WORDS, Containers=integer(-1))
IMAGE_CONFIG = record(
    User=optional(string(minLength=1)), ExposedPorts=optional(nullable(mapping(EMPTY, PORT_KEY))),
    Env=optional(STRINGS), Cmd=optional(STRINGS), Healthcheck=optional(nullable(HEALTH_CHECK)),
    Volumes=optional(mapping(EMPTY)), WorkingDir=optional(string(minLength=1)), Entrypoint=optional(STRINGS),
    OnBuild=optional(STRINGS), Labels=optional(WORDS), StopSignal=optional(TEXT), Shell=optional(MAYBE_STRINGS))
IMAGE = record(
    Id=DIGEST, RepoTags=STRINGS, RepoDigests=STRINGS, Comment=optional(TEXT), Created=optional(TIME),
    Author=optional(TEXT), Config=IMAGE_CONFIG, Architecture=string(minLength=1), Variant=optional(TEXT),
    Os=string(minLength=1), Size=COUNT, GraphDriver=GRAPH_DRIVER,
    RootFS=record(Type=one_of("layers"), Layers=array(DIGEST)), Metadata=record(LastTagTime=TIME))
IMAGE_STEP = record(Id=TEXT, Created=INT, CreatedBy=TEXT, Tags=MAYBE_STRINGS, Size=COUNT, Comment=TEXT)
REMOVALS = array(record(Untagged=optional(TEXT), Deleted=optional(TEXT)))
IMAGES_PRUNED = record(ImagesDeleted=nullable(REMOVALS), **SPACE)
SEARCH = array(record(description=TEXT, is_official=BOOL, is_automated=BOOL, name=TEXT, star_count=COUNT))
PROGRESS = record(
    id=optional(TEXT), status=optional(TEXT), stream=optional(TEXT), error=optional(TEXT),
    errorDetail=optional(record(code=optional(INT), message=TEXT)), aux=optional(ANY),
    progressDetail=optional(record(current=optional(COUNT), total=optional(COUNT))))
"""One line of a stream."""
DISTRIBUTION = record(Descriptor=record(mediaType=TEXT, digest=DIGEST, size=COUNT),
                      Platforms=array(record(architecture=TEXT, os=TEXT, variant=optional(TEXT))))
ATTESTATIONS = array(record(Descriptor=ANY, PredicateType=TEXT, Statement=optional(ANY)))

# -- volumes and networks

_VOLUME = {"Name": TEXT, "Driver": TEXT, "Mountpoint": TEXT, "CreatedAt": TIME, "Labels": MAYBE_WORDS,
           "Options": MAYBE_WORDS, "Scope": one_of("local", "global"), "Status": optional(ANY)}
VOLUME = record(**_VOLUME)
VOLUME_USED = record(**_VOLUME, UsageData=record(Size=integer(-1), RefCount=integer(-1)))
VOLUMES = record(Volumes=array(VOLUME), Warnings=MAYBE_STRINGS)
VOLUMES_PRUNED = record(VolumesDeleted=MAYBE_STRINGS, **SPACE)
_NETWORK = {
    "Name": TEXT, "Id": HEX64, "Created": TIME, "Scope": one_of("local"), "Driver": TEXT, "EnableIPv4": BOOL,
    "EnableIPv6": BOOL, "Internal": BOOL, "Attachable": BOOL, "Ingress": BOOL, "ConfigOnly": BOOL,
    "ConfigFrom": record(Network=TEXT), "Options": MAYBE_WORDS, "Labels": MAYBE_WORDS, "IPAM": record(
        Driver=TEXT, Options=MAYBE_WORDS, Config=nullable(array(record(
            Subnet=TEXT, Gateway=optional(TEXT), IPRange=optional(TEXT), AuxiliaryAddresses=optional(WORDS)))))}
NETWORK_SUMMARY = record(**_NETWORK, Containers=optional(EMPTY))
NETWORK = record(**_NETWORK, Containers=mapping(record(
    Name=TEXT, EndpointID=TEXT, MacAddress=TEXT, IPv4Address=TEXT, IPv6Address=TEXT), "^[0-9a-f]{64}$"),
    Status=record(IPAM=record(Subnets=mapping(record(IPsInUse=UINT64, DynamicIPsAvailable=UINT64)))))
NETWORK_CREATED = record(Id=HEX64, Warning=TEXT)
NETWORKS_PRUNED = record(NetworksDeleted=MAYBE_STRINGS)

# -- the system


def _usage(items: Schema) -> Schema:
    return record(ActiveCount=COUNT, TotalCount=COUNT, Reclaimable=COUNT, TotalSize=COUNT,
                  Items=optional(nullable(array(items))))


BUILD_CACHE = record(
    ID=TEXT, Parents=optional(MAYBE_STRINGS), Type=TEXT, Description=TEXT, InUse=BOOL, Shared=BOOL, Size=COUNT,
    CreatedAt=TIME, LastUsedAt=optional(nullable(TIME)), UsageCount=COUNT)
DISK_USAGE = record(
    ImageUsage=optional(_usage(IMAGE_SUMMARY)), ContainerUsage=optional(_usage(CONTAINER_SUMMARY)),
    VolumeUsage=optional(_usage(VOLUME_USED)), BuildCacheUsage=optional(_usage(BUILD_CACHE)))
BUILD_PRUNED = record(CachesDeleted=MAYBE_STRINGS, **SPACE)
AUTH = record(Status=TEXT, IdentityToken=optional(TEXT))
VERSION = record(
    Platform=record(Name=TEXT), Components=array(record(Name=TEXT, Version=TEXT, Details=optional(WORDS))),
    Version=TEXT, ApiVersion=string(r"^1\.\d\d$"), MinAPIVersion=string(r"^1\.\d\d$"), GitCommit=TEXT, GoVersion=TEXT,
    Os=TEXT, Arch=TEXT, KernelVersion=TEXT, Experimental=optional(BOOL), BuildTime=TEXT)
EVENT = record(
    Type=one_of("builder", "config", "container", "daemon", "image", "network", "node", "plugin", "pod", "secret",
                "service", "volume"),
    Action=string(minLength=1), Actor=record(ID=TEXT, Attributes=WORDS), scope=one_of("local"), time=COUNT,
    timeNano=COUNT)
_COMMIT = record(ID=TEXT)
INFO = record(
    ID=TEXT, Containers=COUNT, ContainersRunning=COUNT, ContainersPaused=COUNT, ContainersStopped=COUNT, Images=COUNT,
    Driver=TEXT, DriverStatus=array(array(TEXT, minItems=2, maxItems=2)), DockerRootDir=TEXT, Plugins=record(
        Volume=STRINGS, Network=STRINGS, Authorization=MAYBE_STRINGS, Log=STRINGS),
    MemoryLimit=BOOL, SwapLimit=BOOL, CpuCfsPeriod=BOOL, CpuCfsQuota=BOOL, CPUShares=BOOL, CPUSet=BOOL,
    PidsLimit=BOOL, OomKillDisable=BOOL, IPv4Forwarding=BOOL, Debug=BOOL, NFd=COUNT, NGoroutines=COUNT,
    SystemTime=TIME, LoggingDriver=TEXT, CgroupDriver=one_of("cgroupfs", "systemd", "none"),
    CgroupVersion=one_of("1", "2"), NEventsListener=COUNT, KernelVersion=TEXT, OperatingSystem=TEXT, OSVersion=TEXT,
    OSType=one_of("linux"), Architecture=TEXT, NCPU=integer(1), MemTotal=integer(1), IndexServerAddress=TEXT,
    RegistryConfig=record(InsecureRegistryCIDRs=STRINGS, Mirrors=MAYBE_STRINGS, IndexConfigs=mapping(
        record(Name=TEXT, Mirrors=STRINGS, Secure=BOOL, Official=BOOL))),
    GenericResources=optional(nullable(array(ANY))), HttpProxy=TEXT, HttpsProxy=TEXT, NoProxy=TEXT, Name=TEXT,
    Labels=STRINGS, ExperimentalBuild=BOOL, ServerVersion=TEXT,
    Runtimes=mapping(record(path=TEXT, runtimeArgs=optional(STRINGS), status=optional(WORDS))), DefaultRuntime=TEXT,
    Swarm=record(NodeID=TEXT, NodeAddr=TEXT, LocalNodeState=one_of("", "inactive"), ControlAvailable=BOOL, Error=TEXT,
                 RemoteManagers=nullable(array(ANY))),
    LiveRestoreEnabled=BOOL, Isolation=one_of("", "default", "process", "hyperv"), InitBinary=TEXT,
    ContainerdCommit=_COMMIT, RuncCommit=_COMMIT, InitCommit=_COMMIT, SecurityOptions=STRINGS,
    FirewallBackend=record(Driver=TEXT, Info=optional(array(STRINGS))), CDISpecDirs=STRINGS,
    Warnings=MAYBE_STRINGS, HyperStack=ANY)
