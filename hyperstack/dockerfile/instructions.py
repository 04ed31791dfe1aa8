"""A statement becomes a typed instruction. Arguments are as written: variables are replaced when it is carried out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hyperstack.dockerfile import words
from hyperstack.dockerfile.errors import DockerfileError, shown
from hyperstack.dockerfile.source import Heredoc, Statement, parse_heredoc_mark

_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?\Z", re.DOTALL)
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+\Z")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")
_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_ENVIRONMENT_NAME = re.compile(r"[^\s=\0]+\Z")
_NO_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")
_LATER = {"mount": "mounts during a RUN", "network": "a network per RUN", "security": "a security mode per RUN",
          "device": "devices during a RUN", "link": "copies that are independent of what is below",
          "parents": "copies that keep their parents", "exclude": "exclusions of one copy",
          "keep-git-dir": "keeping .git", "checksum": "checksums of downloads", "unpack": "unpacking of downloads"}


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


def parse(statement: Statement, escape: str = "\\") -> Instruction:
    """:raise DockerfileError: no such instruction, or its arguments are wrong; names the line."""
    parser = _PARSERS.get(statement.word)
    if parser is None:
        raise DockerfileError(f"unknown instruction: {shown(statement.word, 60)}", line=statement.line)
    try:
        return parser(statement, escape)
    except DockerfileError as error:
        if error.line:
            raise
        raise DockerfileError(error.reason, line=statement.line, hint=error.hint) from None


def expanded(instruction: I, values: Mapping[str, str], escape: str = "\\") -> I:
    """The instruction with its variables replaced, where it has some: of RUN, CMD and ENTRYPOINT the shell does it.

    :raise DockerfileError: see `words.expand`.
    """
    def one(text: str) -> str:
        return words.expand(text, values, escape)

    try:
        return _expand(instruction, one, values, escape)
    except DockerfileError as error:
        raise DockerfileError(error.reason, line=instruction.line, hint=error.hint) from None


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


# -- arguments

def json_words(rest: str) -> tuple[str, ...] | None:
    """A JSON list of strings; None where it is not written as one."""
    if not rest.startswith("["):
        return None
    try:
        found = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        return None
    if any("\0" in word or _surrogate(word) for word in found):
        raise DockerfileError("a string of a list holds a character that no argument can have")
    return tuple(found)


def _surrogate(word: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in word)


def _flags(statement: Statement, known: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The --name=value words in front, and the rest."""
    found: dict[str, str] = {}
    rest = statement.rest
    while rest.startswith("--"):
        word, *more = rest.split(None, 1)
        if word == "--":
            return found, more[0] if more else ""
        match = _FLAG.match(word)
        name = match[1] if match else word
        if match is None or name not in known:
            if name in _LATER:
                raise DockerfileError(f"the --{name} option ({_LATER[name]}) is not supported: this is the classic "
                                      "builder", hint=f"leave --{name} out")
            raise DockerfileError(f"unknown flag: {shown(word, 60)}")
        if name in found:
            raise DockerfileError(f"duplicate flag specified: {name}")
        if not match[2]:
            raise DockerfileError(f"missing a value on flag: {name}")
        found[name] = match[2]
        rest = more[0].strip() if more else ""
    return found, rest


def _required(statement: Statement, rest: str) -> str:
    if not rest:
        raise DockerfileError(f"{statement.word} requires at least one argument")
    return rest


def split_words(rest: str, escape: str) -> list[str]:
    """At blanks that are neither quoted nor escaped; quotes and escapes stay, for `words.expand`."""
    found, word, quote, at = [], "", "", 0
    while at < len(rest):
        char = rest[at]
        at += 1
        if char == escape and quote != "'" and at < len(rest):
            word += char + rest[at]
            at += 1
        elif not quote and char.isspace():
            if word:
                found.append(word)
            word = ""
        else:
            if quote:
                quote = "" if char == quote else quote
            elif char in "\"'":
                quote = char
            word += char
    return [*found, word] if word else found


def _pairs(statement: Statement, escape: str) -> tuple[tuple[str, str], ...]:
    found = split_words(_required(statement, statement.rest), escape)
    if "=" not in found[0]:
        parts = statement.rest.split(None, 1)
        if len(parts) < 2:
            raise DockerfileError(f"{statement.word} must have two arguments")
        return ((parts[0], parts[1]),)
    pairs = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"Syntax error - can't find = in {shown(word, 60)!r}. Must be of the form: "
                                  "name=value")
        if not name:
            raise DockerfileError(f"{statement.word} names can not be blank")
        pairs.append((name, value))
    return tuple(pairs)


def _command(kind: type[CommandLine]) -> Callable[[Statement, str], Instruction]:
    def parse_command(statement: Statement, escape: str) -> Instruction:
        listed = json_words(statement.rest)
        if listed is not None:
            return kind(line=statement.line, text=statement.text, words=listed, for_shell=False)
        return kind(line=statement.line, text=statement.text, words=(statement.rest,) if statement.rest else (),
                    for_shell=True)
    return parse_command


def _text(kind: type[Text]) -> Callable[[Statement, str], Instruction]:
    def parse_text(statement: Statement, escape: str) -> Instruction:
        return kind(line=statement.line, text=statement.text, value=_required(statement, statement.rest))
    return parse_text


# -- instructions

def _from(statement: Statement, escape: str) -> From:
    flags, rest = _flags(statement, ("platform",))
    parts = rest.split()
    if len(parts) == 3 and parts[1].lower() == "as":
        name = parts[2].lower()
        if not _STAGE_NAME.match(name):
            raise DockerfileError(f'invalid name for build stage: "{shown(parts[2], 60)}", name can\'t start with a '
                                  "number or contain symbols")
    elif len(parts) == 1:
        name = ""
    else:
        raise DockerfileError("FROM requires either one or three arguments")
    return From(line=statement.line, text=statement.text, base=parts[0], name=name, platform=flags.get("platform", ""))


def _arg(statement: Statement, escape: str) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in split_words(_required(statement, statement.rest), escape):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        pairs.append((name, value if equals else None))
    return Arg(line=statement.line, text=statement.text, pairs=tuple(pairs))


def _env(statement: Statement, escape: str) -> Env:
    return Env(line=statement.line, text=statement.text, pairs=_pairs(statement, escape))


def _label(statement: Statement, escape: str) -> Label:
    return Label(line=statement.line, text=statement.text, pairs=_pairs(statement, escape))


def _expose(statement: Statement, escape: str) -> Expose:
    return Expose(line=statement.line, text=statement.text,
                  values=tuple(split_words(_required(statement, statement.rest), escape)))


def _volume(statement: Statement, escape: str) -> Volume:
    rest = _required(statement, statement.rest)
    listed = json_words(rest)
    values = tuple(split_words(rest, escape)) if listed is None else listed
    if not values or not all(value.strip() for value in values):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(line=statement.line, text=statement.text, values=values)


def _run(statement: Statement, escape: str) -> Run:
    _, rest = _flags(statement, ())
    listed = json_words(_required(statement, rest))
    if listed is not None:
        if not listed:
            raise DockerfileError("RUN requires at least one argument")
        return Run(line=statement.line, text=statement.text, words=listed, for_shell=False)
    docs = statement.heredocs
    if len(docs) == 1 and parse_heredoc_mark(rest) == docs[0].name:
        return Run(line=statement.line, text=statement.text, words=(_script(docs[0]),), for_shell=True)
    line = "\n".join([rest, *(doc.content + doc.name for doc in docs)])
    return Run(line=statement.line, text=statement.text, words=(line,), for_shell=True)


def _script(doc: Heredoc) -> str:
    """A here-document that is the whole command is a script; its first line may say whose."""
    first = doc.content.partition("\n")[0]
    if not first.startswith("#!"):
        return doc.content
    # In memory, so that no layer gets it. There it cannot be executed itself, so its interpreter is.
    mark = "EOF_OF_SCRIPT"
    while mark in doc.content:
        mark += "_"
    interpreter = first[2:].strip()
    return (f"cat > /dev/shm/.script <<'{mark}'\n{doc.content}{mark}\n"
            f"exec {interpreter} /dev/shm/.script")


def _shell(statement: Statement, escape: str) -> Shell:
    listed = json_words(statement.rest)
    if not listed:
        raise DockerfileError("SHELL requires the arguments to be in JSON form")
    return Shell(line=statement.line, text=statement.text, words=listed)


def _onbuild(statement: Statement, escape: str) -> OnBuild:
    rest = _required(statement, statement.rest)
    word = rest.split(None, 1)[0].upper()
    if word in _NO_TRIGGERS:
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed" if word == "ONBUILD"
                              else f"{word} isn't allowed as an ONBUILD trigger")
    trigger = replace(statement, text=rest)
    parse(trigger, escape)
    if statement.heredocs:
        rest = "\n".join([rest, *(doc.content + doc.name for doc in statement.heredocs)])
    return OnBuild(line=statement.line, text=statement.text, value=rest)


def _copy(statement: Statement, escape: str) -> Copy:
    add = statement.word == "ADD"
    flags, rest = _flags(statement, ("chown", "chmod") if add else ("chown", "chmod", "from"))
    listed = json_words(rest)
    parts = list(listed) if listed is not None else rest.split()
    if len(parts) < 2:
        raise DockerfileError(f"{statement.word} requires at least two arguments, but only {len(parts)} "
                              f"{'was' if len(parts) == 1 else 'were'} provided. Destination could not be determined")
    docs = {doc.name: doc for doc in statement.heredocs}
    marks = [parse_heredoc_mark(part) if docs else "" for part in parts]
    if marks[-1] in docs:
        raise DockerfileError(f"{statement.word} cannot accept a here-document as its destination")
    inline = tuple(docs[mark] for mark in marks if mark in docs)
    sources = tuple(part for part, mark in zip(parts[:-1], marks, strict=False) if mark not in docs)
    return Copy(line=statement.line, text=statement.text, add=add, sources=sources, destination=parts[-1],
                inline=inline, stage=flags.get("from", ""), chown=flags.get("chown", ""),
                chmod=flags.get("chmod", ""))


def _healthcheck(statement: Statement, escape: str) -> Health:
    flags, rest = _flags(statement, ("interval", "timeout", "start-period", "start-interval", "retries"))
    kind, _, line = _required(statement, rest).partition(" ")
    if kind.upper() == "NONE":
        if line.strip() or flags:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return Health(line=statement.line, text=statement.text, test=("NONE",))
    if kind.upper() != "CMD":
        raise DockerfileError(f"Unknown type {shown(kind.upper(), 40)!r} in HEALTHCHECK (try CMD)")
    line = line.strip()
    listed = json_words(line)
    if not line or listed == ():
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    retries = flags.get("retries", "0")
    if not re.fullmatch(r"[0-9]{1,6}", retries):
        raise DockerfileError(f"--retries must be a number of at least 1 (not {shown(retries, 20)})")
    return Health(line=statement.line, text=statement.text, retries=int(retries),
                  test=("CMD-SHELL", line) if listed is None else ("CMD", *listed),
                  interval=duration(flags.get("interval", "0s")), timeout=duration(flags.get("timeout", "0s")),
                  start_period=duration(flags.get("start-period", "0s")),
                  start_interval=duration(flags.get("start-interval", "0s")))


def duration(text: str) -> int:
    """Nanoseconds of 1h2m3.5s. :raise DockerfileError: it is none, or a week and more."""
    if text == "0":
        return 0
    if len(text) > 64 or not _DURATION.match(text):
        raise DockerfileError(f"invalid duration: {shown(text, 40)!r}", hint="for instance 30s or 1m30s")
    total = sum(float(number) * _NS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > 7 * 24 * _NS["h"]:
        raise DockerfileError(f"duration {shown(text, 40)} is longer than a week")
    return int(total)


_PARSERS: dict[str, Callable[[Statement, str], Instruction]] = {
    "FROM": _from, "ARG": _arg, "ENV": _env, "LABEL": _label, "RUN": _run, "COPY": _copy, "ADD": _copy,
    "CMD": _command(Cmd), "ENTRYPOINT": _command(Entrypoint), "WORKDIR": _text(Workdir), "USER": _text(User),
    "STOPSIGNAL": _text(StopSignal), "MAINTAINER": _text(Maintainer), "EXPOSE": _expose, "VOLUME": _volume,
    "SHELL": _shell, "HEALTHCHECK": _healthcheck, "ONBUILD": _onbuild}
