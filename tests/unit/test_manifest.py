"""Pod manifests: what is honoured, what is refused with its path, and what is malformed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hyperstack.native_api import schema
from hyperstack.native_api.documents import MAX_SIZE, parse_documents
from hyperstack.native_api.manifest import parse_manifests, parse_pod
from hyperstack.native_api.quantities import amount
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import MountKind, RestartKind

DOCS = Path(__file__).parents[2] / "docs" / "manifest.md"
MINIMAL: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
                           "spec": {"containers": [{"name": "main", "image": "busybox"}]}}


def pod(**spec: Any) -> dict[str, Any]:
    document = copy.deepcopy(MINIMAL)
    document["spec"].update(spec)
    return document


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "main", "image": "busybox", **fields}])


def refusal(document: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        parse_pod(document)
    return str(caught.value)


def test_a_minimal_pod_has_kubernetes_defaults() -> None:
    spec, pulls = parse_pod(MINIMAL)
    assert (spec.name, spec.hostname, spec.restart, spec.termination_grace_s) == ("web", "web", RestartKind.ALWAYS, 30)
    assert spec.containers[0].entrypoint is None
    assert spec.containers[0].security.seccomp == "default"
    assert pulls == (("busybox", "IfNotPresent"),)


def test_annotations_name_the_kernel_and_the_network() -> None:
    document = pod()
    document["metadata"]["annotations"] = {"org.hyperstack.kernel": "own", "org.hyperstack.network": "front"}
    spec, _ = parse_pod(document)
    assert (spec.kernel, spec.network) == ("own", "front")
    assert parse_pod(MINIMAL)[0].network == "bridge"


def test_everything_that_is_honoured_arrives() -> None:
    spec, pulls = parse_pod(pod(
        restartPolicy="OnFailure", terminationGracePeriodSeconds=5, shareProcessNamespace=True, hostname="h",
        subdomain="s", dnsPolicy="None", dnsConfig={"nameservers": ["10.0.0.1"], "searches": ["a.b"],
                                                   "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]},
        hostAliases=[{"ip": "10.0.0.9", "hostnames": ["db", "db.local"]}],
        securityContext={"runAsUser": 7, "runAsGroup": 8, "runAsNonRoot": True, "supplementalGroups": [9],
                         "sysctls": [{"name": "net.core.somaxconn", "value": "99"}]},
        volumes=[{"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        initContainers=[{"name": "first", "image": "busybox", "command": ["true"]}],
        containers=[{
            "name": "main", "image": "app:1", "command": ["a"], "args": ["b"], "workingDir": "/w", "tty": True,
            "stdin": True, "stdinOnce": True, "imagePullPolicy": "Always", "env": [{"name": "A", "value": "1"}],
            "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "ephemeral-storage": "1G"},
                          "requests": {"cpu": 0.25, "memory": "32Mi"}},
            "volumeMounts": [{"name": "work", "mountPath": "/work/", "readOnly": True}],
            "securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                                "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                                "procMount": "Unmasked", "seccompProfile": {"type": "Unconfined"}}}]))
    main = spec.containers[0]
    assert spec.restart is RestartKind.ON_FAILURE
    assert (spec.hostname, spec.domainname, spec.share_process_namespace) == ("h", "s", True)
    assert spec.termination_grace_s == 5
    assert (spec.dns, spec.dns_search, spec.dns_options) == (("10.0.0.1",), ("a.b",), ("ndots:2", "debug"))
    assert spec.extra_hosts == ("db:10.0.0.9", "db.local:10.0.0.9")
    assert spec.sysctls == {"net.core.somaxconn": "99"}
    assert [(port.container_port, port.host_port, port.protocol) for port in spec.ports] == [(80, 8080, "tcp")]
    assert main.exposed_ports == ("80/tcp", "53/udp")
    assert (main.entrypoint, main.command, main.env, main.working_dir) == (("a",), ("b",), ("A=1",), "/w")
    assert (main.tty, main.open_stdin, main.stdin_once, main.user) == (True, True, True, "5:8")
    assert (main.resources.memory, main.resources.nano_cpus, main.resources.cpu_shares) == (64 << 20, 500_000_000, 256)
    assert main.disk_size == 10**9
    mount = main.mounts[0]
    assert (mount.kind, mount.source, mount.target, mount.size, mount.read_only) == (
        MountKind.EMPTY_DIR, "work", "/work", 1 << 20, True)
    security = main.security
    assert (security.cap_add, security.cap_drop) == (("NET_ADMIN",), ("ALL",))
    assert (security.no_new_privileges, security.read_only_rootfs, security.run_as_non_root) == (True, True, True)
    assert (security.masked_paths, security.seccomp, security.supplemental_groups) == ((), "unconfined", (9,))
    assert [item.name for item in spec.init_containers] == ["first"]
    assert pulls == (("busybox", "IfNotPresent"), ("app:1", "Always"))


@pytest.mark.parametrize(("document", "words"), [
    (container(livenessProbe={"exec": {}}), "spec.containers[0].livenessProbe is not supported"),
    (container(env=[{"name": "A", "valueFrom": {"fieldRef": {}}}]), "spec.containers[0].env[0].valueFrom is not supp"),
    (pod(hostNetwork=True), "spec.hostNetwork is not supported"),
    (pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "spec.volumes[0].hostPath is not supported"),
    (pod(securityContext={"fsGroup": 1}), "spec.securityContext.fsGroup is not supported"),
    (container(securityContext={"seccompProfile": {"type": "Localhost"}}), "type Localhost is not supported"),
    (container(resources={"requests": {"memory": "1Gi"}}), "requests.memory without a limit is not supported"),
    (container(resources={"limits": {"nvidia.com/gpu": 1}}), "limits.nvidia.com/gpu is not supported"),
    (container(securityContext={"runAsGroup": 3}), "runAsGroup without runAsUser is not supported"),
])
def test_what_cannot_be_honoured_is_refused_by_its_path(document: Any, words: str) -> None:
    with pytest.raises(UnsupportedOption) as caught:
        parse_pod(document)
    assert words in str(caught.value)


@pytest.mark.parametrize(("document", "words"), [
    (container(comand=["x"]), 'unknown field "spec.containers[0].comand" (did you mean "command"?)'),
    (container(image=5), "spec.containers[0].image: expected str, got int"),
    (container(image=""), "spec.containers[0].image must not be empty"),
    (container(workingDir="here"), "spec.containers[0].workingDir"),
    (container(env=[{"name": "A=B", "value": ""}]), "spec.containers[0].env[0].name"),
    (container(ports=[{"containerPort": 70000}]), "spec.containers[0].ports[0].containerPort"),
    (container(ports=[{"containerPort": 7, "protocol": "tcp"}]), "not one of TCP, UDP, SCTP"),
    (container(resources={"limits": {"memory": "64m"}}), "must be at least 6Mi"),
    (container(resources={"limits": {"cpu": 1}, "requests": {"cpu": 2}}), "must not be larger than the limit"),
    (container(volumeMounts=[{"name": "no", "mountPath": "/x"}]), "there is no volume 'no'"),
    (container(securityContext={"runAsUser": 0, "runAsNonRoot": True}), "contradicts runAsNonRoot"),
    (container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}), "contradicts"),
    (container(imagePullPolicy="Sometimes"), "spec.containers[0].imagePullPolicy"),
    (pod(containers=[]), "spec.containers must not be empty"),
    (pod(containers=[{"name": "a", "image": "b"}] * 2), "another container with it"),
    (pod(volumes=[{"name": "v"}]), "a volume needs its source"),
    (pod(restartPolicy="never"), "not one of Always, OnFailure, Never"),
    (pod(dnsPolicy="None"), "needs spec.dnsConfig.nameservers"),
    (pod(hostAliases=[{"ip": "nowhere", "hostnames": []}]), "spec.hostAliases[0].ip"),
    ({**MINIMAL, "kind": "Deployment"}, "kind 'Deployment'"),
    ({**MINIMAL, "metadata": {}}, "metadata.name"),
    ("text", "kind"),
    (None, "kind"),
    ([], "kind"),
])
def test_what_is_malformed_is_named(document: Any, words: str) -> None:
    assert words in refusal(document)


def test_empty_and_default_values_of_refused_fields_are_harmless() -> None:
    spec, _ = parse_pod({**pod(hostNetwork=False, schedulerName="default-scheduler", tolerations=[], nodeSelector={},
                               serviceAccountName="default"),
                         "metadata": {"name": "web", "creationTimestamp": None}, "status": {}})
    assert spec.name == "web"


def test_several_documents_are_several_pods() -> None:
    text = "\n---\n".join(json.dumps({**MINIMAL, "metadata": {"name": name}}) for name in ("one", "two"))
    assert [found.spec.name for found in parse_manifests(f"---\n{text}\n---\n".encode())] == ["one", "two"]


def test_variables_are_filled_in_as_kubernetes_does() -> None:
    spec, _ = parse_pod(container(command=["echo", "$(B)", "$$(A)", "$(NONE)", "$A"],
                                  env=[{"name": "A", "value": "1"}, {"name": "B", "value": "<$(A)>"}]))
    assert spec.containers[0].entrypoint == ("echo", "<1>", "$(A)", "$(NONE)", "$A")
    assert spec.containers[0].env == ("A=1", "B=<1>")


def test_variables_that_double_each_other_end_in_an_error() -> None:
    env = [{"name": "V0", "value": "x" * 100}]
    env += [{"name": f"V{index}", "value": f"$(V{index - 1})$(V{index - 1})"} for index in range(1, 64)]
    assert "filled in" in refusal(container(env=env))


@pytest.mark.parametrize(("value", "scale", "result"), [
    ("500m", 1000, 500), ("128Mi", 1, 128 << 20), ("1e3", 1, 1000), ("1E", 1, 10**18), ("1k", 1, 1000),
    (0.5, 1000, 500), (2, 1, 2), ("1.5Gi", 1, 3 << 29), ("1n", 1, 1), ("+1", 1, 1), (".5", 10, 5),
])
def test_quantities(value: Any, scale: int, result: int) -> None:
    assert amount(value, "x", scale=scale) == result


@pytest.mark.parametrize("value", ["", "-1", "1Ki i", "five", "1K", "1e99", "9" * 30, "0x10", "1 Mi", "99E", "NaN"])
def test_what_is_no_quantity_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="x: "):
        amount(value, "x")


@pytest.mark.parametrize(("text", "words"), [
    ("a: &x 1\nb: *x", "anchors and aliases are not read (line 1)"),
    ("a: !!python/object:os.system {}", "YAML tags are not read (line 1)"),
    ("a: 1\na: 2", "the key 'a' is there twice in one object (line 2)"),
    ('{"a": 1, "a": 2}', "the key 'a' twice"),
    ("a: [1", "not valid YAML in line"),
    ("\x01", "not valid YAML"),
    ('"\\0"', "NUL byte"),
    ('{"a": "\\ud800"}', "not valid Unicode"),
    ("[" * 200_000, "nested deeper than 32"),
    ("{a: " * 200_000, "nested deeper than 32"),
    ("[" + "1," * 30_000 + "]", "more than 20000 values"),
    ("---\na\n" * 100, "more than 64 documents"),
    ("x" * (MAX_SIZE + 1), "longer than 1048576 bytes"),
    ("? [a]\n: b", "a key that is not a string"),
])
def test_hostile_texts_are_refused_early(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_documents(text.encode())
    assert words in str(caught.value)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        parse_documents(b"a: \xff")


def test_scalars_are_what_they_look_like() -> None:
    text = "[yes, 2024-01-01, 12:30, '5', 5, -1, 0.5, true, null, ~, 0x1f, 1e3, \"null\", .inf]"
    assert parse_documents(text.encode()) == [
        ["yes", "2024-01-01", "12:30", "5", 5, -1, 0.5, True, None, None, "0x1f", 1000.0, "null", ".inf"]]


def test_keys_are_strings_whatever_they_look_like() -> None:
    assert parse_documents(b"{1: a, true: b}") == [{"1": "a", "true": "b"}]


def test_json_with_escapes_is_read_as_json() -> None:
    assert parse_documents(b'{"a": "\\/\\ud83d\\ude00"}') == [{"a": "/\N{GRINNING FACE}"}]


@pytest.mark.parametrize("kind", schema.REFUSED, ids=lambda kind: kind.__name__)
def test_the_page_names_every_refused_field(kind: type) -> None:
    text = DOCS.read_text()
    missing = [name for name in schema.REFUSED[kind] if f"`{name}`" not in text]
    assert not missing
