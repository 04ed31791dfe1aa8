"""The language of `--format`: the part of Go's text/template that people use with Docker.

    text {{ action }} text          {{- and -}} trim white space; {{/* a comment */}}
    {{.}} {{.Field.Sub}} {{$x.Field}} {{(index .Ports 0).PublicPort}}
    {{json .State}}  {{.Name | upper}}  {{printf "%-10s %d" .Name .Size}}
    {{if P}} ... {{else if P}} ... {{else}} ... {{end}}
    {{range P}} ... {{else}} ... {{end}}   {{range $i, $x := P}} ... {{end}}   {{break}} {{continue}}
    {{with P}} ... {{else}} ... {{end}}    {{$x := P}} {{$x = P}}

`syntax` parses it; functions and the printing of values are in `values`. Not there, and refused by name: define,
template, block, call.

`parse` gives a `Template`; `Template.render(data)` the text. Data is what JSON is made of, plus callables as fields
(`{{.Label "x"}}`). A field that the data lacks is false in `if`, and an error where it would be printed, with the names
that are there: a typing mistake should not print nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperstack.cli import syntax, values
from hyperstack.cli.errors import TemplateError
from hyperstack.cli.syntax import Block, Dot, Function, Jump, Literal, Node, Path, Pipeline, Variable
from hyperstack.cli.values import MISSING, Missing


def parse(text: str) -> Template:
    """:raise TemplateError: it does not parse; the message shows the part that is wrong."""
    return Template(syntax.parse(text))


class Template:
    """A parsed template."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def render(self, data: Any) -> str:
        """:raise TemplateError: the data does not have what the template asks for."""
        run = _Run(data)
        run.nodes(self._nodes, data)
        return "".join(run.written)


class _Jumped(Exception):
    """A break or continue on its way to its range."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    """One rendering."""

    def __init__(self, data: Any) -> None:
        self.written: list[str] = []
        self._variables: list[tuple[str, Any]] = [("$", data)]

    def nodes(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, str):
                self.written.append(node)
            elif isinstance(node, Block):
                scope = len(self._variables)
                self._block(node, dot)
                del self._variables[scope:]
            elif isinstance(node, Jump):
                raise _Jumped(node.kind)
            else:
                value = self._pipeline(node, dot)
                if not node.variables:
                    self.written.append(values.printed(value))

    def _block(self, block: Block, dot: Any) -> None:
        value = self._pipeline(block.pipeline, dot, assign=block.kind != "range")
        if block.kind == "range":
            self._range(block, value, dot)
        elif values.truth(value):
            self.nodes(block.body, value if block.kind == "with" else dot)
        else:
            self.nodes(block.otherwise, dot)

    def _range(self, block: Block, value: Any, dot: Any) -> None:
        pairs = values.pairs(value)
        scope = len(self._variables)
        for key, item in pairs:
            names = block.pipeline.variables
            given = (key, item) if len(names) == 2 else (item,)
            self._assign(block.pipeline, names, given)
            try:
                self.nodes(block.body, item)
            except _Jumped as jump:
                if jump.kind == "break":
                    return
            finally:
                del self._variables[scope:]
        if not pairs:
            self.nodes(block.otherwise, dot)

    def _pipeline(self, pipeline: Pipeline, dot: Any, *, assign: bool = True) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self._command(command, dot, (value,) if number else ())
        if assign and pipeline.variables:
            self._assign(pipeline, pipeline.variables[:1], (value,))
        return value

    def _assign(self, pipeline: Pipeline, names: Sequence[str], given: Sequence[Any]) -> None:
        for name, value in zip(names, given, strict=False):
            if pipeline.declares:
                self._variables.append((name, value))
                continue
            for place in range(len(self._variables) - 1, -1, -1):
                if self._variables[place][0] == name:
                    self._variables[place] = (name, value)
                    break
            else:
                raise TemplateError(f'template error: undefined variable "{name}"')

    def _command(self, command: tuple[Any, ...], dot: Any, piped: tuple[Any, ...]) -> Any:
        head, *rest = command
        if isinstance(head, Function) and head.name in ("and", "or"):
            return self._shortcut(head.name, rest, dot, piped)
        arguments = [self._value(operand, dot) for operand in rest] + list(piped)
        if isinstance(head, Function):
            return values.call(head.name, arguments)
        value = self._value(head, dot)
        if callable(value):
            return values.call_field(head, value, arguments)
        if arguments:
            raise TemplateError(f"template error: {values.kind(value)} takes no arguments: it is not a function")
        return value

    def _shortcut(self, name: str, rest: Sequence[Any], dot: Any, piped: tuple[Any, ...]) -> Any:
        """and, or: the first value that decides, the others not looked at."""
        if not rest and not piped:
            raise TemplateError(f"template error: {name} needs an argument")
        value: Any = None
        for operand in rest:
            value = self._value(operand, dot)
            if values.truth(value) is (name == "or"):
                return value
        return piped[0] if piped else value

    def _value(self, operand: Any, dot: Any) -> Any:
        match operand:
            case Literal(value):
                return value
            case Dot():
                return dot
            case Variable(name):
                for known, value in reversed(self._variables):
                    if known == name:
                        return value
                raise TemplateError(f'template error: undefined variable "{name}"')
            case Function(name):
                return values.call(name, [])
            case Path(root, fields):
                value = self._value(root, dot)
                for name in fields:
                    value = _field(value, name)
                return value
            case Pipeline():
                return self._pipeline(operand, dot)
        raise AssertionError(operand)


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Missing):
        return value
    if value is None:
        return MISSING
    if not isinstance(value, Mapping):
        raise TemplateError(f"template error: can't evaluate field {name} in {values.kind(value)}")
    if name in value:
        return value[name]
    return Missing(name, tuple(str(key) for key in value))
