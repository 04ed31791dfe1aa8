"""A statement becomes a typed instruction."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from hyperstack.dockerfile import arguments
from hyperstack.dockerfile.errors import DockerfileError, SyntaxMistake, quoted, shown
from hyperstack.dockerfile.instructions import (
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Health,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    Text,
    User,
    Volume,
    Workdir,
)
from hyperstack.dockerfile.source import Heredoc, Statement, parse_heredoc_mark

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_MIN_DURATION = 10**6
"""Nanoseconds; Docker's."""
_NO_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")


def parse(statement: Statement, escape: str = "\\") -> Instruction:
    """:raise DockerfileError: no such instruction, or its arguments are wrong; names the line."""
    parser = _PARSERS.get(statement.word)
    if parser is None:
        raise DockerfileError(f"unknown instruction: {shown(statement.word, 60)}", line=statement.line,
                              hint=arguments.meant(statement.word, _PARSERS))
    try:
        return parser(statement, escape)
    except DockerfileError as error:
        raise error.at(statement.line) from None


def _command(kind: type[CommandLine]) -> Callable[[Statement, str], Instruction]:
    def parse_command(statement: Statement, escape: str) -> Instruction:
        listed = arguments.json_words(statement.rest)
        if listed is not None:
            return kind(line=statement.line, text=statement.text, words=listed, for_shell=False)
        return kind(line=statement.line, text=statement.text, words=(statement.rest,) if statement.rest else (),
                    for_shell=True)
    return parse_command


def _text(kind: type[Text]) -> Callable[[Statement, str], Instruction]:
    def parse_text(statement: Statement, escape: str) -> Instruction:
        value = arguments.required(statement, statement.rest, count="exactly")
        return kind(line=statement.line, text=statement.text, value=value)
    return parse_text


def _from(statement: Statement, escape: str) -> From:
    flags, rest = arguments.flags(statement, ("platform",))
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
    for word in arguments.split_words(arguments.required(statement, statement.rest), escape):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        pairs.append((name, value if equals else None))
    return Arg(line=statement.line, text=statement.text, pairs=tuple(pairs))


def _env(statement: Statement, escape: str) -> Env:
    return Env(line=statement.line, text=statement.text, pairs=arguments.pairs(statement, escape))


def _label(statement: Statement, escape: str) -> Label:
    return Label(line=statement.line, text=statement.text, pairs=arguments.pairs(statement, escape))


def _expose(statement: Statement, escape: str) -> Expose:
    return Expose(line=statement.line, text=statement.text,
                  values=tuple(arguments.split_words(arguments.required(statement, statement.rest), escape)))


def _volume(statement: Statement, escape: str) -> Volume:
    rest = arguments.required(statement, statement.rest)
    listed = arguments.json_words(rest)
    values = tuple(arguments.split_words(rest, escape)) if listed is None else listed
    if not values or not all(value.strip() for value in values):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(line=statement.line, text=statement.text, values=values)


def _run(statement: Statement, escape: str) -> Run:
    _, rest = arguments.flags(statement, ())
    listed = arguments.json_words(arguments.required(statement, rest))
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
    listed = arguments.json_words(arguments.required(statement, statement.rest))
    if not listed:
        raise DockerfileError("SHELL requires the arguments to be in JSON form" if listed is None
                              else "SHELL requires at least one argument")
    return Shell(line=statement.line, text=statement.text, words=listed)


def _onbuild(statement: Statement, escape: str) -> OnBuild:
    rest = arguments.required(statement, statement.rest)
    word = rest.split(None, 1)[0].upper()
    if word in _NO_TRIGGERS:
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed" if word == "ONBUILD"
                              else f"{word} isn't allowed as an ONBUILD trigger")
    trigger = replace(statement, text=rest)
    try:
        parse(trigger, escape)
    except SyntaxMistake:
        raise
    except DockerfileError:
        pass  # As in Docker, it is a mistake of whoever builds on the image.
    if statement.heredocs:
        rest = "\n".join([rest, *(doc.content + doc.name for doc in statement.heredocs)])
    return OnBuild(line=statement.line, text=statement.text, value=rest)


def _copy(statement: Statement, escape: str) -> Copy:
    add = statement.word == "ADD"
    flags, rest = arguments.flags(statement, ("chown", "chmod") if add else ("chown", "chmod", "from"))
    listed = arguments.json_words(rest)
    parts = list(listed) if listed is not None else rest.split()
    if len(parts) < 2:
        raise DockerfileError(f"{statement.word} requires at least two arguments, but only one was provided. "
                              "Destination could not be determined")
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
    flags, rest = arguments.flags(statement, ("interval", "timeout", "start-period", "start-interval", "retries"))
    kind, _, line = arguments.required(statement, rest).partition(" ")
    if kind.upper() == "NONE":
        if line.strip() or flags:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return Health(line=statement.line, text=statement.text, test=("NONE",))
    if kind.upper() != "CMD":
        raise DockerfileError(f"Unknown type {quoted(shown(kind.upper(), 40))} in HEALTHCHECK (try CMD)")
    line = line.strip()
    listed = arguments.json_words(line)
    if not line or listed == ():
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    retries = flags.get("retries", "0")
    if not re.fullmatch(r"[+-]?[0-9]{1,6}", retries):
        raise DockerfileError(f"strconv.ParseInt: parsing {quoted(shown(retries, 20))}: invalid syntax",
                              hint="--retries is a number")
    if int(retries) < 0:
        raise DockerfileError(f"--retries cannot be negative ({int(retries)})")
    times = {name: arguments.duration(flags.get(name.replace("_", "-"), "0s"))
             for name in ("interval", "timeout", "start_period", "start_interval")}
    for name, time in times.items():
        if 0 < time < _MIN_DURATION:
            raise DockerfileError(f'Interval "{name.replace("_", "-")}" cannot be less than 1ms')
    return Health(line=statement.line, text=statement.text, retries=int(retries),
                  test=("CMD-SHELL", line) if listed is None else ("CMD", *listed), **times)


_PARSERS: dict[str, Callable[[Statement, str], Instruction]] = {
    "FROM": _from, "ARG": _arg, "ENV": _env, "LABEL": _label, "RUN": _run, "COPY": _copy, "ADD": _copy,
    "CMD": _command(Cmd), "ENTRYPOINT": _command(Entrypoint), "WORKDIR": _text(Workdir), "USER": _text(User),
    "STOPSIGNAL": _text(StopSignal), "MAINTAINER": _text(Maintainer), "EXPOSE": _expose, "VOLUME": _volume,
    "SHELL": _shell, "HEALTHCHECK": _healthcheck, "ONBUILD": _onbuild}
