"""Templates of `--format` as a tree: what `template` describes, parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from hyperstack.cli import values
from hyperstack.cli.errors import TemplateError

MAX_DEPTH = 40
"""Nesting of blocks and of parentheses; far above what a person writes, far below the interpreter's stack."""

MAX_LENGTH = 64 * 1024

_TOKEN = re.compile(r"""
      (?P<space>\s+)
    | (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
    | (?P<char>'(?:\\.|[^'\\\n])')
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<field>\.[A-Za-z_]\w*)
    | (?P<dot>\.)
    | (?P<variable>\$\w*)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<mark>:=|[=|(),])
""", re.VERBOSE)
_OPEN = re.compile(r"\{\{(?:-(?=\s))?")
_COMMENT = re.compile(r"\{\{(?:-\s)?/\*.*?\*/(?:\s-)?\}\}", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_BLOCKS = ("if", "range", "with")
_REFUSED = ("define", "template", "block", "call")


@dataclass(frozen=True)
class Token:
    kind: str
    text: str


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Path:
    """A value and the fields to follow from it."""

    root: Literal | Variable | Dot | Pipeline
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    name: str


@dataclass(frozen=True)
class Dot:
    pass


@dataclass(frozen=True)
class Function:
    name: str


Operand = Literal | Variable | Dot | Function | Path


@dataclass(frozen=True)
class Pipeline:
    """Commands, each of which gets the value of the one before as its last argument."""

    commands: tuple[tuple[Any, ...], ...]
    variables: tuple[str, ...] = ()
    """Names that the value is given to; two of them in `range $i, $x := ...`."""
    declares: bool = True


@dataclass
class Block:
    """if, range or with; `otherwise` holds what follows its else."""

    kind: str
    pipeline: Pipeline
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Jump:
    kind: str


Node = str | Pipeline | Block | Jump


def parse(text: str) -> list[Node]:
    """The nodes of a template.

    :raise TemplateError: it does not parse; the message shows the part that is wrong.
    """
    if len(text) > MAX_LENGTH:
        raise TemplateError(f"the template is longer than {MAX_LENGTH} characters")
    return _Parser(_split(text)).whole()


def _split(text: str) -> list[str | list[Token]]:
    """Text and actions in turn, white space trimmed where an action asks for it."""
    parts: list[str | list[Token]] = []
    position, trim = 0, False
    while opening := _OPEN.search(text, position):
        before = text[position:opening.start()]
        before = before.lstrip() if trim else before
        parts.append(before.rstrip() if opening[0].endswith("-") else before)
        if comment := _COMMENT.match(text, opening.start()):
            position, trim = comment.end(), comment[0].endswith("-}}")
            continue
        tokens, position, trim = _lex(text, opening.end())
        parts.append(tokens)
    rest = text[position:]
    parts.append(rest.lstrip() if trim else rest)
    return parts


def _lex(text: str, position: int) -> tuple[list[Token], int, bool]:
    """The tokens of one action, where the text goes on, and whether to trim what follows."""
    tokens: list[Token] = []
    start = position
    while True:
        closing = re.compile(r"\s-\}\}|\}\}").match(text, position)
        if closing:
            return tokens, closing.end(), closing[0] != "}}"
        match = _TOKEN.match(text, position)
        if match is None:
            if position >= len(text):
                raise TemplateError(f"template parsing error: unclosed action: {{{{{text[start:start + 40]}")
            raise TemplateError(f"template parsing error: unexpected {text[position]!r} in action "
                                f"{{{{{text[start:position + 10]}")
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup or "", match[0]))
        elif tokens and _TOKEN.match(text, match.end()):
            tokens.append(Token("space", " "))
        position = match.end()


class _Parser:
    """Recursive descent over the parts; white space matters only between a value and the field that follows it."""

    def __init__(self, parts: list[str | list[Token]]) -> None:
        self._parts = parts
        self._next = 0
        self._depth = 0

    def whole(self) -> list[Node]:
        nodes, ended = self._list(inside=())
        if ended:
            raise TemplateError(f"template parsing error: unexpected {{{{{ended[0].text}}}}}")
        return nodes

    def _list(self, inside: tuple[str, ...]) -> tuple[list[Node], list[Token]]:
        """Nodes up to an else or end, whose tokens are given back, or to the end of the template."""
        nodes: list[Node] = []
        while self._next < len(self._parts):
            part = self._parts[self._next]
            self._next += 1
            if isinstance(part, str):
                nodes += [part] if part else []
                continue
            keyword = part[0].text if part and part[0].kind == "word" else ""
            if keyword in ("else", "end"):
                return nodes, part
            nodes.append(self._action(keyword, part, inside))
        return nodes, []

    def _action(self, keyword: str, tokens: list[Token], inside: tuple[str, ...]) -> Node:
        if keyword in _REFUSED:
            raise TemplateError(f'template parsing error: "{keyword}" is not supported in --format')
        if keyword in ("break", "continue"):
            if "range" not in inside:
                raise TemplateError(f"template parsing error: {{{{{keyword}}}}} outside {{{{range}}}}")
            return Jump(keyword)
        if keyword in _BLOCKS:
            return self._block(keyword, tokens[1:], inside)
        return _Expression(tokens).pipeline()

    def _block(self, kind: str, tokens: list[Token], inside: tuple[str, ...]) -> Block:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError(f"template parsing error: blocks are nested deeper than {MAX_DEPTH}")
        block = Block(kind, _Expression(tokens).pipeline())
        block.body, ended = self._list((*inside, kind))
        if ended and ended[0].text == "else":
            chained = [token for token in ended[1:] if token.kind != "space"]
            if chained and chained[0].text == kind and kind != "range":
                block.otherwise = [self._block(kind, ended[ended.index(chained[0]) + 1:], inside)]
                self._depth -= 1
                return block
            if chained:
                raise TemplateError(f'template parsing error: unexpected "{chained[0].text}" after else')
            block.otherwise, ended = self._list((*inside, kind))
        if not ended or ended[0].text != "end":
            raise TemplateError(f"template parsing error: {{{{{kind}}}}} has no {{{{end}}}}")
        self._depth -= 1
        return block


class _Expression:
    """The inside of one action."""

    def __init__(self, tokens: list[Token], depth: int = 0) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = depth

    def pipeline(self, closing: bool = False) -> Pipeline:
        """:param closing: read up to a closing parenthesis instead of the end."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError(f"template parsing error: parentheses are nested deeper than {MAX_DEPTH}")
        names: list[str] = []
        declares = True
        if not closing:
            names, declares = self._assigned()
        commands = [self._command()]
        while self._take("|"):
            commands.append(self._command())
        if closing:
            if not self._take(")"):
                raise TemplateError("template parsing error: unclosed left parenthesis")
        elif token := self._peek():
            raise TemplateError(f'template parsing error: unexpected "{token.text}" in action')
        self._depth -= 1
        for command in commands[1:]:
            if not isinstance(command[0], Function | Path):
                raise TemplateError("template parsing error: only a function can follow |")
        return Pipeline(tuple(commands), tuple(names), declares)

    def _assigned(self) -> tuple[list[str], bool]:
        """The variables before := or =; none where the action only has a value."""
        start = self._at
        names: list[str] = []
        while (token := self._peek()) and token.kind == "variable" and len(names) < 2:
            self._at += 1
            names.append(token.text)
            if self._take(","):
                continue
            for mark in (":=", "="):
                if self._take(mark):
                    return names, mark == ":="
            break
        self._at = start
        return [], True

    def _command(self) -> tuple[Operand | Pipeline, ...]:
        operands: list[Operand | Pipeline] = []
        while ((token := self._peek()) and token.text not in ("|", ")")) or (token and token.kind == "string"):
            operands.append(self._operand())
        if not operands:
            raise TemplateError("template parsing error: missing value for command")
        return tuple(operands)

    def _operand(self) -> Operand | Pipeline:
        token = self._peek()
        assert token is not None
        self._at += 1
        root: Literal | Variable | Dot | Pipeline
        match token.kind:
            case "field":
                self._at -= 1
                root = Dot()
            case "dot":
                root = Dot()
            case "variable":
                root = Variable(token.text)
            case "word":
                return _word(token.text)
            case "mark" if token.text == "(":
                root = self.pipeline(closing=True)
            case "mark":
                raise TemplateError(f'template parsing error: unexpected "{token.text}" in action')
            case _:
                root = Literal(_literal(token))
        fields = self._fields()
        return Path(root, fields) if fields or isinstance(root, Pipeline) else root

    def _fields(self) -> tuple[str, ...]:
        """Fields that follow at once, without white space."""
        fields: list[str] = []
        while self._at < len(self._tokens) and self._tokens[self._at].kind == "field":
            fields.append(self._tokens[self._at].text[1:])
            self._at += 1
        return tuple(fields)

    def _peek(self) -> Token | None:
        while self._at < len(self._tokens) and self._tokens[self._at].kind == "space":
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, mark: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "mark" or token.text != mark:
            return False
        self._at += 1
        return True


def _word(text: str) -> Operand:
    constants = {"true": True, "false": False, "nil": None}
    if text in constants:
        return Literal(constants[text])
    if text not in values.FUNCTIONS and text not in ("and", "or"):
        raise TemplateError(f'template parsing error: function "{text}" not defined',
                            hint=f"Functions: and, or, {', '.join(sorted(values.FUNCTIONS))}. Fields begin with a dot.")
    return Function(text)


def _literal(token: Token) -> Any:
    text = token.text
    if token.kind == "number":
        return float(text) if any(mark in text for mark in ".eE") else int(text[:20])
    if text.startswith("`"):
        return text[1:-1]
    plain = re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), text[1:-1])
    return ord(plain) if token.kind == "char" else plain
