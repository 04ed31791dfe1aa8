"""The language of --format."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperstack.cli import template
from hyperstack.cli.errors import TemplateError

DATA: dict[str, Any] = {
    "Name": "/web", "Id": "abc", "Size": 3, "Ratio": 0.5, "Empty": [], "Null": None, "On": True,
    "State": {"Status": "running", "Running": True},
    "Config": {"Labels": {"b": "2", "a": "1"}, "Env": ["A=1", "B=2"]},
    "Ports": [{"PublicPort": 80}, {"PublicPort": 443}],
    "Label": lambda name: f"<{name}>",
}


@pytest.mark.parametrize(("text", "shown"), [
    ("plain", "plain"),
    ("{{.Name}} {{.State.Status}}", "/web running"),
    ("{{json .State}}", '{"Status":"running","Running":true}'),
    ("{{ .Name | json }}", '"/web"'),
    ("{{.Size}} {{.Ratio}} {{.On}} {{.Null}} {{.Empty}}", "3 0.5 true <no value> []"),
    ("{{.Config.Labels}} {{.Config.Env}}", "map[a:1 b:2] [A=1 B=2]"),
    ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
    ("{{if .Empty}}a{{else if .On}}b{{else}}c{{end}}", "b"),
    ("{{if and .On (eq .Size 3) (not .Empty)}}yes{{end}}", "yes"),
    ("{{or .Empty .Name}}", "/web"),
    ("{{if .State.Health}}h{{else}}none{{end}}", "none"),
    ("{{range .Config.Env}}[{{.}}]{{end}}", "[A=1][B=2]"),
    ("{{range $i, $x := .Config.Env}}{{$i}}={{$x}};{{end}}", "0=A=1;1=B=2;"),
    ("{{range $k, $v := .Config.Labels}}{{$k}}{{$v}} {{$.Name}} {{end}}", "a1 /web b2 /web "),
    ("{{range .Empty}}x{{else}}nothing{{end}}", "nothing"),
    ("{{range .Ports}}{{if eq .PublicPort 443}}{{break}}{{end}}{{.PublicPort}}{{end}}", "80"),
    ("{{range .Ports}}{{if eq .PublicPort 80}}{{continue}}{{end}}{{.PublicPort}}{{end}}", "443"),
    ("{{with .State}}{{.Status}}{{end}}", "running"),
    ("{{with .Empty}}a{{else}}b{{end}}", "b"),
    ("{{$x := .Name}}{{$x}}{{$x = 1}}{{$x}}", "/web1"),
    ('{{index .Config.Labels "a"}}|{{index .Config.Labels "none"}}|{{(index .Ports 1).PublicPort}}', "1||443"),
    ("{{index .Config.Env 1}}", "B=2"),
    ('{{join .Config.Env ", "}} {{len .Config.Env}}', "A=1, B=2 2"),
    ("{{upper .Name}} {{lower \"ABC\"}} {{title \"a b\"}}", "/WEB abc A B"),
    ('{{split "a:b" ":"}} {{truncate "abcdef" 3}} {{pad "x" 1 2}}|', "[a b] abc  x  |"),
    ('{{printf "%-5s|%3d|%q|%v|%05.1f|%x" .Id .Size .Id .On .Ratio 255}}', 'abc  |  3|"abc"|true|000.5|ff'),
    ("{{println .Id .Size}}", "abc 3\n"),
    ("{{print .Size .Size \"x\" .Size}}", "3 3x3"),
    ("{{slice .Id 1}} {{slice .Id 0 2}}", "bc ab"),
    ("{{lt 1 2}} {{ge 1 2}} {{ne 1 1}} {{eq .Id \"x\" \"abc\"}}", "true false false true"),
    ('{{.Label "com.example"}}', "<com.example>"),
    ("a  {{- .Size -}}  b", "a3b"),
    ("a{{/* no }} one */}}b {{- /* trims */ -}} c", "abc"),
    ("{{`raw {{ text`}} {{\"q\\\"\\n\"}}", 'raw {{ text q"\n'),
    ("{{urlquery \"a b&\"}} {{html \"<\"}}", "a+b%26 &lt;"),
    ("{{.Config.Labels.missing}}", "<no value>"),
    ("{{range .Null}}x{{end}}{{.Null.More}}", "<no value>"),
])
def test_what_a_template_shows(text: str, shown: str) -> None:
    assert template.parse(text).render(DATA) == shown


@pytest.mark.parametrize(("text", "words"), [
    ("{{", "unclosed action"), ("{{.Name", "unclosed action"), ("{{if .On}}x", "no {{end}}"), ("{{end}}", "unexpected"),
    ("{{nofunction 1}}", '"nofunction" not defined'), ("{{}}", "missing value"), ("{{.Name | }}", "missing value"),
    ("{{(.Name}}", "unclosed left parenthesis"), ("{{.A ? }}", "unexpected '?'"), ("{{break}}", "outside"),
    ('{{define "x"}}{{end}}', "not supported"), ("{{.Name | .Name | 3}}", "only a function"),
    ("{{" + "(" * 100 + "1" + ")" * 100 + "}}", "nested deeper"), ("{{if 1}}" * 100, "nested deeper"),
    ("{{range .X}}{{else range .Y}}{{end}}", "after else"), ("x" * 70000, "longer than"),
])
def test_what_does_not_parse(text: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        template.parse(text)


@pytest.mark.parametrize(("text", "words"), [
    ("{{.Nmae}}", r"did you mean \.Name\?"), ("{{.State.Staus}}", r"did you mean \.Status\?"),
    ("{{.Name.More}}", "in a string"), ("{{$x}}", "undefined variable"), ("{{$x = 1}}", "undefined variable"),
    ("{{index .Ports 9}}", "out of range"), ("{{len .Size}}", "calling len with a number"),
    ("{{range .Size}}{{end}}", "can't go over a number"), ("{{.Name 1}}", "takes no arguments"),
    ("{{lt .Name 1}}", "calling lt"), ("{{json}}", "calling json with no arguments"), ("{{json .Nope}}", "no field"),
    ("{{slice .Id 2 1}}", "out of range"), ("{{and}}", "needs an argument"), ("{{.Label 1 2}}", "wrong number"),
])
def test_what_does_not_fit_the_data(text: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        template.parse(text).render(DATA)


_PIECES = st.sampled_from([
    "{{", "}}", "{{-", " -}}", ".", ".Name", "$x", ":=", "|", "(", ")", '"', "`", "'a'", " ", "if", "else", "end",
    "range", "with", "json", "index", "printf", "len", "1", "-2.5e3", "%s", ",", "break", "/*", "*/", "text", "\\"])


@given(st.lists(_PIECES, max_size=30).map("".join))
@example("{{if .Name}}{{range .Config.Env}}{{end}}{{end}}")
def test_any_text_is_a_template_or_a_clear_error(text: str) -> None:
    with suppress(TemplateError):
        assert isinstance(template.parse(text).render(DATA), str)


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


@given(_JSON)
def test_json_is_read_back_as_it_was(value: Any) -> None:
    assert json.loads(template.parse("{{json .}}").render(value)) == value


@given(_JSON)
def test_every_value_can_be_printed(value: Any) -> None:
    assert isinstance(template.parse("{{.}}{{printf \"%v %s %d %q\" . . . .}}{{println .}}").render(value), str)


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_stays_as_it_is(text: str) -> None:
    assert template.parse(text).render(DATA) == text
