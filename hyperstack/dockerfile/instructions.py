"""What a Dockerfile says, as types. Arguments are as written: variables are replaced when an instruction is carried
out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hyperstack.dockerfile import words
from hyperstack.dockerfile.errors import DockerfileError
from hyperstack.dockerfile.source import Heredoc


@dataclass(frozen=True, kw_only=True)
class Instruction:
    line: int
    text: str
    """As written, in one line."""


@dataclass(frozen=True, kw_only=True)
class From(Instruction):
    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, kw_only=True)
class Arg(Instruction):
    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, kw_only=True)
class Pairs(Instruction):
    """ENV and LABEL."""

    pairs: tuple[tuple[str, str], ...]


class Env(Pairs): ...


class Label(Pairs): ...


@dataclass(frozen=True, kw_only=True)
class Text(Instruction):
    """Instructions with one argument."""

    value: str


class Maintainer(Text): ...


class Workdir(Text): ...


class User(Text): ...


class StopSignal(Text): ...


@dataclass(frozen=True, kw_only=True)
class OnBuild(Text):
    """Its value is an instruction, kept for who builds on the image."""


@dataclass(frozen=True, kw_only=True)
class Several(Instruction):
    """EXPOSE and VOLUME."""

    values: tuple[str, ...]


class Expose(Several): ...


class Volume(Several): ...


@dataclass(frozen=True, kw_only=True)
class CommandLine(Instruction):
    words: tuple[str, ...]
    for_shell: bool
    """The one word is a line for the shell."""


class Run(CommandLine):
    """What its here-documents hold is part of the line."""


class Cmd(CommandLine): ...


class Entrypoint(CommandLine): ...


@dataclass(frozen=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Health(Instruction):
    test: tuple[str, ...]
    """("NONE",), ("CMD", word...) or ("CMD-SHELL", line)."""
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """COPY and ADD."""

    add: bool
    sources: tuple[str, ...]
    destination: str
    inline: tuple[Heredoc, ...] = ()
    """Files that are written in the Dockerfile itself."""
    stage: str = ""
    """--from: a stage's name or number, or an image."""
    chown: str = ""
    chmod: str = ""


I = TypeVar("I", bound=Instruction)  # noqa: E741 - of an instruction


def expanded(instruction: I, values: Mapping[str, str], escape: str = "\\") -> I:
    """The instruction with its variables replaced, where it has some: of RUN, CMD and ENTRYPOINT the shell does it.

    :raise DockerfileError: see `words.expand`.
    """
    def one(text: str) -> str:
        return words.expand(text, values, escape)

    try:
        return _expand(instruction, one, values, escape)
    except DockerfileError as error:
        raise error.at(instruction.line) from None


def _expand(instruction: I, one: Callable[[str], str], values: Mapping[str, str], escape: str) -> I:
    match instruction:
        case Pairs():
            return replace(instruction, pairs=tuple((one(name), one(value)) for name, value in instruction.pairs))
        case Arg():
            return replace(instruction, pairs=tuple(
                (one(name), None if value is None else one(value)) for name, value in instruction.pairs))
        case Workdir() | User() | StopSignal():
            return replace(instruction, value=one(instruction.value))
        case Expose():
            found = [word for value in instruction.values for word in words.expand_words(value, values, escape)]
            return replace(instruction, values=tuple(found))
        case Volume():
            return replace(instruction, values=tuple(map(one, instruction.values)))
        case Copy():
            inline = tuple(replace(doc, content=words.expand(doc.content, values, escape, quotes=False))
                           if doc.expand else doc for doc in instruction.inline)
            return replace(instruction, sources=tuple(map(one, instruction.sources)), inline=inline,
                           destination=one(instruction.destination), chown=one(instruction.chown),
                           chmod=one(instruction.chmod))
    return instruction
