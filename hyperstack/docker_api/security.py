"""Privileges of a create request. They are privileges inside the VM; none of them reaches the host."""

from __future__ import annotations

import re

from hyperstack.docker_api.bodies import HostConfigBody, Words
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import Security

_CAPABILITY = re.compile(r"(CAP_)?[A-Z][A-Z0-9_]{1,40}\Z")
_KINDS = frozenset({"no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "writable-cgroups"})
_NUMBER = re.compile(r"[0-9]{1,10}\Z")
_GROUP = re.compile(r"[^\s:\x00-\x1f]{1,255}\Z")
_HIGHEST_ID = 2**31 - 1
"""Docker's own limit of uids and gids."""
_HARMLESS = frozenset({"label=disable", "label:disable", "apparmor=unconfined", "apparmor:unconfined",
                       "seccomp=builtin", "no-new-privileges=false", "no-new-privileges:false"})
"""What asks for the state that holds anyway: the guest has no SELinux and no AppArmor."""


def parse_security(host: HostConfigBody) -> Security:
    """:raise InvalidArgument: a malformed one. :raise UnsupportedOption: profiles of the host's own modules."""
    no_new_privileges, seccomp_off, masks_off = False, False, False
    for option in host.security_opt:
        _check_option(option)
        if option in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            no_new_privileges = True
        elif option in ("seccomp=unconfined", "seccomp:unconfined"):
            seccomp_off = True
        elif option == "systempaths=unconfined":
            masks_off = True
        elif option not in _HARMLESS:
            shown = option.partition("{")[0][:64]
            raise UnsupportedOption(f"HostConfig.SecurityOpt {shown}", "profiles of one's own are not loaded",
                                    hint="no-new-privileges, seccomp=unconfined or systempaths=unconfined")
    return Security(
        privileged=host.privileged, cap_add=_capabilities(host.cap_add, "HostConfig.CapAdd"),
        cap_drop=_capabilities(host.cap_drop, "HostConfig.CapDrop"), no_new_privileges=no_new_privileges,
        seccomp="unconfined" if seccomp_off else "default", read_only_rootfs=host.readonly_rootfs,
        masked_paths=() if masks_off else _paths(host.masked_paths),
        readonly_paths=() if masks_off else _paths(host.readonly_paths),
        supplemental_groups=tuple(int(group) for group in host.group_add if _is_number(group)),
        group_names=tuple(_group(group) for group in host.group_add if not _is_number(group)))


def _check_option(option: str) -> None:
    kind, *value = re.split("[=:]", option, maxsplit=1)
    if (not value and option != "no-new-privileges") or kind not in _KINDS \
            or (kind == "no-new-privileges" and value not in ([], ["true"], ["false"])):
        raise InvalidArgument(f'invalid --security-opt {2 if value else 1}: "{option[:128]}"',
                              field="HostConfig.SecurityOpt", value=option[:128])


def _capabilities(words: Words, field: str) -> tuple[str, ...]:
    names = [words] if isinstance(words, str) else words or []
    for name in names:
        if not _CAPABILITY.match(name.upper()):
            raise InvalidArgument(f'invalid {field.rpartition(".")[2]}: unknown capability: '
                                  f'"CAP_{name.upper()[:64].removeprefix("CAP_")}"', field=field, value=name[:64],
                                  hint="for instance NET_ADMIN, or ALL")
    return tuple(name.upper() for name in names)


def _paths(paths: list[str] | None) -> tuple[str, ...] | None:
    return None if paths is None else tuple(paths)


def _is_number(text: str) -> bool:
    return bool(_NUMBER.match(text)) and int(text) <= _HIGHEST_ID


def _group(text: str) -> str:
    """A name, which the guest looks up in the image's own /etc/group."""
    if not _GROUP.match(text) or _NUMBER.match(text):
        raise InvalidArgument(f"invalid group: {text[:64]!r}", field="HostConfig.GroupAdd", value=text[:64],
                              hint=f"a name of the image's /etc/group, or a number up to {_HIGHEST_ID}")
    return text
