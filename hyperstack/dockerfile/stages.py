"""A whole Dockerfile: what stands before the first FROM, and the stages."""

from __future__ import annotations

from dataclasses import dataclass

from hyperstack.dockerfile.errors import DockerfileError, StageError, quoted, shown
from hyperstack.dockerfile.instructions import Arg, From, Instruction
from hyperstack.dockerfile.parsing import parse
from hyperstack.dockerfile.source import read_source


@dataclass(frozen=True, kw_only=True)
class Stage:
    origin: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        return self.origin.name


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    arguments: tuple[Arg, ...]
    """ARG instructions before the first FROM."""
    stages: tuple[Stage, ...]
    escape: str

    @property
    def steps(self) -> int:
        return len(self.arguments) + sum(1 + len(stage.instructions) for stage in self.stages)

    def until(self, target: str) -> Dockerfile:
        """The stages up to the target, a name or number; all where it is empty.

        :raise DockerfileError: there is no such stage.
        """
        if not target:
            return self
        found = self.find(target, len(self.stages))
        if found is None:
            raise StageError(f"target stage {quoted(shown(target, 60))} could not be found")
        return Dockerfile(arguments=self.arguments, stages=self.stages[:found + 1], escape=self.escape)

    def find(self, name: str, before: int) -> int | None:
        """The number of the last stage called so in front of the one with the number `before`."""
        for number in range(before - 1, -1, -1):
            if self.stages[number].name and self.stages[number].name == name.lower():
                return number
        if name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < before:
            return int(name)
        return None


def parse_dockerfile(data: bytes) -> Dockerfile:
    """:raise DockerfileError: it is malformed; names the line."""
    source = read_source(data)
    if not source.statements:
        raise DockerfileError("file with no instructions")
    arguments: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for statement in source.statements:
        instruction = parse(statement, source.escape)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise StageError("no build stage in current context", line=statement.line,
                             hint="a Dockerfile begins with FROM, which only ARG may precede")
    if not stages:
        raise StageError("no build stage in current context", hint="a Dockerfile needs a FROM")
    return Dockerfile(arguments=tuple(arguments), escape=source.escape, stages=tuple(
        Stage(origin=origin, instructions=tuple(instructions)) for origin, instructions in stages))


def parse_trigger(text: str, escape: str = "\\") -> Instruction:
    """What an image's ONBUILD holds. :raise DockerfileError: it is no single instruction, or not allowed there."""
    source = read_source(text.encode("utf-8", "replace"))
    if len(source.statements) != 1:
        raise DockerfileError(f"the trigger {shown(text, 80)!r} is not one instruction")
    instruction = parse(source.statements[0], escape)
    if isinstance(instruction, From) or source.statements[0].word in ("ONBUILD", "MAINTAINER"):
        raise DockerfileError(f"{source.statements[0].word} isn't allowed as an ONBUILD trigger")
    return instruction
