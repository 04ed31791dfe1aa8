"""One atomic nftables transaction at a time, through the `nft` command.

A process of its own costs about 3 ms, and it is worth them: libnftables calls exit() where it does not understand what
some other program put into the kernel, and the daemon must not die of that.
"""

from __future__ import annotations

import logging
import subprocess

from hyperstack.pod.errors import Unavailable

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0


def apply(text: str, *, check_only: bool = False) -> None:
    """Give nft these commands, all or nothing. Blocks.

    :param check_only: the kernel judges them, nothing changes.
    :raise Unavailable: nft is missing, or it or the kernel refuses; the message has the first lines of why.
    """
    command = ["nft", "-c", "-f", "-"] if check_only else ["nft", "-f", "-"]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise Unavailable("the nft command is missing", field="nft",
                          hint="install it: apt install nftables") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"nft did not end within {_TIMEOUT_S:.0f} s", field="nft") from None
    if done.returncode:
        reason = " ".join(done.stderr.decode("utf-8", "replace").split())[:400]
        raise Unavailable(f"nftables refused: {reason}", field="nftables",
                          hint="the kernel needs nf_tables with nat, fib and the bridge family; see `hyperctl doctor`")
