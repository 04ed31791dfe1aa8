"""One atomic nftables transaction at a time, through the `nft` command.

For rules, which come and go with networks. A process of its own costs about 3 ms, and it is worth them: libnftables
calls exit() where it does not understand what some other program put into the kernel, and the daemon must not die of
that. What comes and goes with pods is told directly, see `elements`.
"""

from __future__ import annotations

import json
import subprocess

from hyperstack.pod.errors import Unavailable

_TIMEOUT_S = 30.0


def apply(text: str, *, check_only: bool = False) -> None:
    """Give nft these commands, all or nothing. Blocks.

    :param check_only: the kernel judges them, nothing changes.
    :raise Unavailable: nft is missing, or it or the kernel refuses; the message has the first lines of why.
    """
    _run(["-c", "-f", "-"] if check_only else ["-f", "-"], text)


def tables() -> set[tuple[str, str]]:
    """(family, name) of all tables of the host. Blocks. :raise Unavailable: as `apply`."""
    listed = json.loads(_run(["-j", "list", "tables"]))["nftables"]
    return {(item["table"]["family"], item["table"]["name"]) for item in listed if "table" in item}


def _run(arguments: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, encoding="utf-8", errors="replace",
                              timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise Unavailable("the nft command is missing", field="nft",
                          hint="install it: apt install nftables") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"nft did not end within {_TIMEOUT_S:.0f} s", field="nft") from None
    if done.returncode:
        reason = " ".join(done.stderr.split())[:400]
        raise Unavailable(f"nftables refused: {reason}", field="nftables",
                          hint="the kernel needs nf_tables with nat, fib and the bridge family; see `hyperctl doctor`")
    return done.stdout
