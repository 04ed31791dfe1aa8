"""Dockerfiles as text: what each instruction means, and what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.dockerfile import instructions as ins
from hyperstack.dockerfile.errors import DockerfileError
from hyperstack.dockerfile.source import read_source
from hyperstack.dockerfile.stages import Dockerfile, parse_dockerfile, parse_trigger
from hyperstack.dockerfile.words import expand, expand_words


def only(text: str) -> Any:
    """The one instruction of a stage."""
    parsed = parse_dockerfile(("FROM x\n" + text).encode())
    assert len(parsed.stages[0].instructions) == 1
    return parsed.stages[0].instructions[0]


def texts(source: str) -> list[str]:
    return [statement.text for statement in read_source(source.encode()).statements]


def test_lines_are_continued_past_comments_and_empty_lines() -> None:
    assert texts("RUN a && \\\n  # no\n\n  b \\\n\n# nor this\n  c\nRUN d") == ["RUN a &&   b   c", "RUN d"]
    assert texts("RUN a \\  \n b") == ["RUN a  b"]
    assert texts("RUN a \\\\\nRUN b") == ["RUN a \\\\", "RUN b"]
    assert texts("# escape=`\nRUN a `\n b\nRUN c:\\\nRUN d") == ["RUN a  b", "RUN c:\\", "RUN d"]
    assert texts("  RUN a\r\n\r\nRUN b\r\n") == ["RUN a", "RUN b"]
    assert texts("RUN a \\") == ["RUN a"]


def test_directives_stand_at_the_top_alone() -> None:
    assert read_source(b"# Syntax = docker/dockerfile:1\n# escape=`\nFROM x").directives == (
        ("syntax", "docker/dockerfile:1"), ("escape", "`"))
    assert read_source(b"# a comment\n# escape=`\nFROM x").escape == "\\"
    for wrong in ("# escape=x\nFROM y", "# escape=`\n# escape=`\nFROM y"):
        with pytest.raises(DockerfileError):
            read_source(wrong.encode())


def test_heredocs() -> None:
    run = only("RUN cat <<A > /a && cat <<-'B' > /b\none $x\nA\n\ttwo\n\tB\n")
    assert run.words == ("cat <<A > /a && cat <<-'B' > /b\none $x\nA\ntwo\nB",)
    assert only("RUN <<EOF\necho a\necho b\nEOF").words == ("echo a\necho b\n",)
    assert "exec /usr/bin/python3 /dev/shm/.script" in only("RUN <<E\n#!/usr/bin/python3\nprint(1)\nE").words[0]
    copy = only("COPY <<one <<\"two\" file /to/\na ${V}\none\nb ${V}\ntwo")
    assert (copy.sources, copy.destination) == (("file",), "/to/")
    made = ins.expanded(copy, {"V": "v"})
    assert [(doc.name, doc.content) for doc in made.inline] == [("one", "a v\n"), ("two", "b ${V}\n")]
    # A JSON list has none, and neither have other instructions.
    assert only('RUN ["cat", "<<EOF"]').words == ("cat", "<<EOF")
    assert only("CMD cat <<EOF").words == ("cat <<EOF",)
    with pytest.raises(DockerfileError, match=r"unterminated heredoc \(line 2: <<EOF"):
        only("RUN <<EOF\necho")


@pytest.mark.parametrize(("text", "expected"), [
    ("$A", "a"), ("${A}b", "ab"), ("$NONE", ""), ("\\$A", "$A"), ("'$A'", "$A"), ('"$A b"', "a b"),
    ('"\\"$A\\""', '"a"'), ("${NONE:-x$A}", "xa"), ("${EMPTY-x}", ""), ("${EMPTY:-x}", "x"), ("${A:+y}", "y"),
    ("${NONE+y}", ""), ("${P#*/}", "b/c.tar.gz"), ("${P##*/}", "c.tar.gz"), ("${P%.*}", "a/b/c.tar"),
    ("${P%%.*}", "a/b/c"), ("${P/\\//-}", "a-b/c.tar.gz"), ("${P//\\//-}", "a-b-c.tar.gz"), ("a\\ b", "a b"),
    ("$", "$"), ("$$", ""), ("${A}${A}", "aa"), ("'a'\"b\"c", "abc"), ("${A:?no}", "a")])
def test_variables(text: str, expected: str) -> None:
    assert expand(text, {"A": "a", "EMPTY": "", "P": "a/b/c.tar.gz"}) == expected


@pytest.mark.parametrize("text", ["${A", "${}", "${A:", "${A:=x}", "'a", '"a', "${A:-${B}", "${N:?must be}", "${A^}"])
def test_malformed_variables_are_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        expand(text, {"A": "a"})


def test_words_split_also_within_values() -> None:
    assert expand_words("80 $PORTS 'a b' \"$PORTS\"", {"PORTS": " 1 2 "}) == ["80", "1", "2", "a b", " 1 2 "]
    assert expand_words("$NONE", {}) == []


def test_pairs() -> None:
    assert only('ENV A=1 B="x y" C=a\\ b D=').pairs == (("A", "1"), ("B", '"x y"'), ("C", "a\\ b"), ("D", ""))
    assert ins.expanded(only('ENV A="x $V" B=a\\ b'), {"V": "v"}).pairs == (("A", "x v"), ("B", "a b"))
    assert only("ENV old style  value").pairs == (("old", "style  value"),)
    assert only("LABEL a.b=c").pairs == (("a.b", "c"),)
    for wrong in ("ENV A", "ENV A=1 B", "ENV =x", "LABEL", "ARG =x"):
        with pytest.raises(DockerfileError, match="line 2"):
            only(wrong)


def test_commands() -> None:
    assert (only('CMD ["a", "b c"]').words, only('CMD ["a", "b c"]').for_shell) == (("a", "b c"), False)
    assert (only("CMD a 'b'").words, only("CMD a 'b'").for_shell) == (("a 'b'",), True)
    # What is no list is a line for the shell.
    assert only("CMD [a").words == ("[a",)
    assert only("ENTRYPOINT []").words == ()
    assert only('SHELL ["powershell", "-c"]').words == ("powershell", "-c")
    for wrong in ("SHELL /bin/sh", "RUN", "RUN []", "CMD [1]"):
        with pytest.raises(DockerfileError):
            only(wrong)


def test_healthchecks() -> None:
    health = only("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=4 CMD curl -f x || exit 1")
    assert health.test == ("CMD-SHELL", "curl -f x || exit 1")
    assert (health.interval, health.timeout, health.retries) == (90_000_000_000, 500_000_000, 4)
    assert only('HEALTHCHECK CMD ["a", "b"]').test == ("CMD", "a", "b")
    assert only("HEALTHCHECK NONE").test == ("NONE",)
    for wrong in ("HEALTHCHECK", "HEALTHCHECK true", "HEALTHCHECK CMD", "HEALTHCHECK --interval=5 CMD x",
                  "HEALTHCHECK NONE x", "HEALTHCHECK --retries=-1 CMD x", "HEALTHCHECK --interval=999h CMD x"):
        with pytest.raises(DockerfileError):
            only(wrong)


def test_copies() -> None:
    copy = only("COPY --from=build --chown=a:b --chmod=644 x y /z/")
    assert (copy.stage, copy.chown, copy.chmod, copy.sources, copy.destination) == (
        "build", "a:b", "644", ("x", "y"), "/z/")
    assert only('ADD ["a b", "c"]').sources == ("a b",)
    assert ins.expanded(only("COPY $A '$A' $B"), {"A": "x", "B": "/y"}).sources == ("x", "$A")
    for wrong in ("COPY x", "COPY", "ADD --from=x y z", "COPY --what=1 x y", "COPY --chown x y",
                  "COPY --chown=a --chown=b x y"):
        with pytest.raises(DockerfileError):
            only(wrong)


@pytest.mark.parametrize(("text", "option"), [
    ("RUN --mount=type=cache,target=/x y", "--mount"), ("RUN --network=none y", "--network"),
    ("RUN --security=insecure y", "--security"), ("COPY --link a b", "--link"), ("COPY --parents a b", "--parents"),
    ("ADD --checksum=sha256:x a b", "--checksum"), ("COPY --exclude=a b c", "--exclude")])
def test_options_of_buildkit_are_refused_by_name(text: str, option: str) -> None:
    with pytest.raises(DockerfileError, match=f"line 2: the {option} option .* is not supported"):
        only(text)


def test_triggers() -> None:
    assert only("ONBUILD RUN x").value == "RUN x"
    trigger = parse_trigger("COPY . /app")
    assert isinstance(trigger, ins.Copy)
    for wrong in ("ONBUILD ONBUILD RUN x", "ONBUILD FROM x", "ONBUILD MAINTAINER x", "ONBUILD", "ONBUILD ENV a"):
        with pytest.raises(DockerfileError):
            only(wrong)
    assert only("ONBUILD NOPE").value == "NOPE"
    for hostile in ("NOPE", "FROM x", "ONBUILD RUN x", "RUN a\nRUN b", "", "\0"):
        with pytest.raises(DockerfileError):
            parse_trigger(hostile)


def stages(text: str) -> Dockerfile:
    return parse_dockerfile(text.encode())


def test_stages() -> None:
    parsed = stages("ARG A=1\nFROM x AS One\nRUN a\nFROM one\nFROM --platform=linux/amd64 y as two\nRUN b\n")
    assert [stage.name for stage in parsed.stages] == ["one", "", "two"]
    assert parsed.steps == 6
    assert parsed.stages[2].origin.platform == "linux/amd64"
    assert [parsed.find(name, 3) for name in ("ONE", "1", "3")] == [0, 1, None]
    assert parsed.find("two", 2) is None
    assert len(parsed.until("one").stages) == 1
    assert len(parsed.until("1").stages) == 2
    with pytest.raises(DockerfileError, match='target stage "three" could not be found'):
        parsed.until("three")


@pytest.mark.parametrize(("text", "words"), [
    ("", "file with no instructions"), ("# nothing", "file with no instructions"),
    ("RUN x", "no build stage in current context (line 1: "),
    ("FROM", "line 1: FROM requires"), ("FROM a b", "requires either one or three"), ("FROM a AS 1x", "invalid name"),
    ("FROM x\nRUN a\nWHAT b", "line 3: unknown instruction: WHAT"), ("ARG A", "needs a FROM"),
    ("FROM x\nVOLUME", "VOLUME requires"), ("FROM x\nVOLUME [\"\"]", "can not be an empty"),
    ("FROM x\nCMD [\"\\u0000\"]", "no argument can have"), ("FROM x\nRUN a\0", "line 2: it contains a NUL")])
def test_what_is_wrong_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        stages(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("FOO bar", "dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)"),
    ("XXXXXXX", "dockerfile parse error on line 2: unknown instruction: XXXXXXX"),
    ("ENV a", "failed to parse Dockerfile: ENV must have two arguments (line 2)"),
    ("ENV a=b c", "failed to parse Dockerfile: Syntax error - can't find = in \"c\". Must be of the form: name=value "
                  "(line 2)"),
    ("USER", "dockerfile parse error on line 2: USER requires exactly one argument"),
    ("SHELL []", "dockerfile parse error on line 2: SHELL requires at least one argument"),
    ("COPY --chown a /x", "dockerfile parse error on line 2: missing a value on flag: --chown"),
    ("COPY --chowm=1 a /x", "dockerfile parse error on line 2: unknown flag: --chowm (did you mean --chown?)"),
    ("COPY --chown=1 --chown=2 a /x", "dockerfile parse error on line 2: duplicate flag specified: --chown"),
    ("HEALTHCHECK FOO", 'dockerfile parse error on line 2: Unknown type "FOO" in HEALTHCHECK (try CMD)'),
    ("HEALTHCHECK --interval=1us CMD a",
     'dockerfile parse error on line 2: Interval "interval" cannot be less than 1ms'),
    ("HEALTHCHECK --retries=-1 CMD a", "dockerfile parse error on line 2: --retries cannot be negative (-1)")])
def test_mistakes_have_docker_s_words(text: str, words: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        stages(f"FROM x\n{text}\n")
    assert str(caught.value) == words


def test_what_a_variable_cannot_be_replaced_in_is_told() -> None:
    for text, words in (('"b', "unexpected end of statement while looking for matching double-quote"),
                        ("${x:?need}", "x: need"), ("${x!y}", "unsupported modifier (!) in substitution")):
        with pytest.raises(DockerfileError) as caught:
            ins.expanded(only(f"ENV a={text}"), {})
        assert caught.value.message == f"failed to process {json.dumps(text)}: {words}"


def test_bounds() -> None:
    with pytest.raises(DockerfileError, match="at most"):
        read_source(b"#" * (2 << 20))
    with pytest.raises(DockerfileError, match="more than 4096 instructions"):
        stages("FROM x\n" + "RUN a\n" * 5000)
    with pytest.raises(DockerfileError, match="nested too deeply"):
        expand("${A:-" * 40 + "}" * 40, {})
    with pytest.raises(DockerfileError, match="expands to more than"):
        expand("$A" * 1000, {"A": "x" * 100_000})
    with pytest.raises(DockerfileError, match="too long for a pattern"):
        expand("${A//*?*?*?*?x/}", {"A": "a" * 10_000})
    with pytest.raises(DockerfileError, match="not UTF-8"):
        read_source(b"FROM \xff")


# Text that looks enough like a Dockerfile to get far.
_PIECES = st.sampled_from([
    "FROM ", "x", " AS ", "\n", "RUN ", "COPY ", "ADD ", "ENV ", "ARG ", "LABEL ", "ONBUILD ", "HEALTHCHECK ", "CMD ",
    "SHELL ", "VOLUME ", "EXPOSE ", "--from=", "--chown=", "--mount=", "<<EOF", "<<-'E'", "EOF\n", "\\\n", "\\", "`",
    "#", "# escape=`\n", '"', "'", "[", "]", ",", "${", "}", ":-", "$A", "=", " ", "\t", "\0", "é", "\ud7ff", "/"])


@given(st.lists(_PIECES | st.text(max_size=4), max_size=60).map("".join))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(DockerfileError):
        parsed = parse_dockerfile(text.encode("utf-8", "replace"))
        for stage in parsed.stages:
            for instruction in stage.instructions:
                ins.expanded(instruction, {"A": "a b"}, parsed.escape)


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(DockerfileError):
        parse_dockerfile(data)


@given(st.text(st.characters(exclude_characters="$\\'\"", exclude_categories=["Cs"]), max_size=40))
def test_text_without_marks_stays(text: str) -> None:
    assert expand(text, {"A": "x"}) == text
    assert expand(f"'{text}'", {}) == text
