"""Docker's command line in the middle of something when the daemon is killed: logs -f, attach, exec, events, wait, run.

Such clients cannot be served any more. But each of them must be told so by the end of its stream, must have been told
nothing wrong until then, and whatever it was shown must still be there when it asks again.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from tests.clients.peers import binaries
from tests.faults.workload import COUNTER, STEADY, Ledger, Owned, Stage, check_consecutive
from tests.harness import PATIENCE_S, Daemon
from tests.images import BUSYBOX

BRIEF = COUNTER.replace("while :", "while [ $i -lt 300 ]")
"""For an exec: it goes on without its client, and is to end some time."""


@dataclass(frozen=True)
class _Client:
    words: tuple[str, ...]
    process: subprocess.Popen[bytes]
    shows: str = ""
    """The container whose log it shows from the beginning, or from now on."""


class Attached:
    """One of each kind, from now until the daemon's death."""

    def __init__(self, daemon: Daemon, ledger: Ledger, step: int) -> None:
        self._daemon = daemon
        self._ledger = ledger
        self._binary = str(next(iter(binaries().values())))
        self._ran = Owned(f"attached-{step}", None, asked=Stage.RUNNING)
        ledger.containers.append(self._ran)
        self._clients = [
            self._start("logs", "-f", STEADY[0], shows=STEADY[0]),
            self._start("attach", "--no-stdin", STEADY[1], shows=STEADY[1]),
            self._start("exec", STEADY[0], "sh", "-c", BRIEF),
            self._start("events", "--format", "{{json .}}"),
            self._start("wait", STEADY[1]),
            self._start("run", "--name", self._ran.name, BUSYBOX, "sh", "-c", COUNTER, shows=self._ran.name)]

    def ended(self) -> dict[str, int]:
        """Wait for the end of all of them, after a kill.

        :return: how many lines of each of the steady containers were shown.
        :raise AssertionError: one hangs, or was shown what cannot be.
        """
        lines = dict.fromkeys(STEADY, 0)
        for client in self._clients:
            try:
                output, _ = client.process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                client.process.kill()
                client.process.communicate()
                raise AssertionError(f"docker {' '.join(client.words)} hangs after the daemon's death") from None
            shown = self._judge(client, output)
            if client.shows in lines:
                lines[client.shows] = shown
            elif client.shows:
                self._ran.lines = shown
            if output:
                kind = f"docker {client.words[0]}"
                self._ledger.done[kind] = self._ledger.done.get(kind, 0) + 1
        return lines

    def remove(self) -> None:
        """What `run` left, so that there are not ever more machines."""
        if self._ran.reached is not Stage.GONE:
            self._ran.asked = Stage.GONE
            self._docker("rm", "-f", self._ran.name)
            self._ran.reached = Stage.GONE

    def _judge(self, client: _Client, output: bytes) -> int:
        """How much of a log there must be; 0 where none was shown."""
        words = client.words
        if words[0] == "wait":
            assert output == b"", f"docker wait said {output!r} of a container that runs"
        elif words[0] == "events":
            for line in output.split(b"\n")[:-1]:
                json.loads(line)
        else:
            check_consecutive(output, f"docker {words[0]}")
        whole = output.split(b"\n")[:-1]
        return int(whole[-1]) + 1 if client.shows and whole else 0

    def _start(self, *words: str, shows: str = "") -> _Client:
        process = subprocess.Popen([self._binary, *words], env=self._daemon.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return _Client(words, process, shows)

    def _docker(self, *words: str) -> None:
        subprocess.run([self._binary, *words], env=self._daemon.environment, check=True, capture_output=True,
                       timeout=PATIENCE_S)
