"""From a Dockerfile's text to statements: directives, continued lines, comments and here-documents.

The rules are those of Docker's reference: a line that ends with the escape character (and blanks) goes on in the next
one, comments and empty lines within it are left out, and what `<<NAME` begins ends at a line that is NAME alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hyperstack.dockerfile.errors import DockerfileError, SyntaxMistake, shown

MAX_BYTES = 1 << 20
"""Of a whole Dockerfile."""
MAX_STATEMENTS = 4096
MAX_HEREDOCS = 64
"""Of one statement."""

_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(.+?)[ \t]*\Z")
_KNOWN_DIRECTIVES = ("escape", "syntax", "check")
_HEREDOC = re.compile(r"([0-9]*)<<(-?)([^<]+)\Z")
_WITH_HEREDOCS = ("add", "copy", "run")


@dataclass(frozen=True, kw_only=True)
class Heredoc:
    name: str
    content: str
    expand: bool
    """Variables in it are replaced: its name stood without quotes."""
    chomp: bool
    """Leading tabs were taken off: `<<-`."""
    descriptor: str = ""
    """The file descriptor in front of the mark, as the shell has it."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    line: int
    """Where it begins, from 1."""
    text: str
    """The instruction with its arguments, in one line."""
    heredocs: tuple[Heredoc, ...] = ()

    @property
    def word(self) -> str:
        return self.text.split(None, 1)[0].upper()

    @property
    def rest(self) -> str:
        parts = self.text.split(None, 1)
        return parts[1].strip() if len(parts) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class Source:
    statements: tuple[Statement, ...]
    escape: str = "\\"
    directives: tuple[tuple[str, str], ...] = ()


def read_source(data: bytes) -> Source:
    """:raise DockerfileError: it is too long, no text, or a directive or here-document in it is malformed."""
    if len(data) > MAX_BYTES:
        raise DockerfileError(f"it is {len(data)} bytes long (at most {MAX_BYTES})")
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise DockerfileError(f"byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise DockerfileError("it contains a NUL byte", line=text[:text.index("\0")].count("\n") + 1)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    directives = _directives(lines)
    escape = dict(directives).get("escape", "\\")
    statements = tuple(_statements(lines, escape))
    return Source(statements=statements, escape=escape, directives=directives)


def _directives(lines: list[str]) -> tuple[tuple[str, str], ...]:
    """Those of the comments at the very top; anything else ends them."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line.strip())
        if match is None:
            break
        name, value = match[1].lower(), match[2]
        if name not in _KNOWN_DIRECTIVES:
            break
        if name in found:
            raise SyntaxMistake(f"only one {name} parser directive can be used", line=number)
        if name == "escape" and value not in ("\\", "`"):
            raise SyntaxMistake(f"invalid escape token '{shown(value, 20)}' does not match ` or \\", line=number)
        found[name] = value
    return tuple(found.items())


def _statements(lines: list[str], escape: str) -> Iterator[Statement]:
    # An escape character that is itself escaped continues nothing.
    continued = re.compile(rf"(?:(?<=[^{re.escape(escape)}])|^){re.escape(escape)}[ \t]*\Z")
    at = count = 0
    while at < len(lines):
        first, text = at + 1, _without_comment(lines[at]).lstrip()
        at += 1
        if not text.strip():
            continue
        parts = []
        while (match := continued.search(text)) is not None:
            parts.append(text[:match.start()])
            text = ""
            while at < len(lines):
                following = _without_comment(lines[at])
                at += 1
                if following.strip():
                    text = following
                    break
        text = "".join([*parts, text]).rstrip()
        if not text.strip():
            continue
        count += 1
        if count > MAX_STATEMENTS:
            raise DockerfileError(f"it has more than {MAX_STATEMENTS} instructions", line=first)
        heredocs, at = _heredocs(text, lines, at, first)
        yield Statement(line=first, text=text, heredocs=heredocs)


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line


def _heredocs(text: str, lines: list[str], at: int, first: int) -> tuple[tuple[Heredoc, ...], int]:
    """Those that the statement begins, and the line after the last one."""
    words = text.split(None, 2)
    instruction = words[0].lower()
    if instruction == "onbuild" and len(words) > 1:
        instruction = words[1].lower()
        text = text.split(None, 1)[1]
    rest = text.split(None, 1)
    if instruction not in _WITH_HEREDOCS or len(rest) < 2 or "<<" not in text or rest[1].startswith("["):
        return (), at
    found: list[Heredoc] = []
    for word in raw_words(rest[1]):
        match = _HEREDOC.match(word)
        if match is None:
            continue
        name = re.sub(r"[\"'\\]", "", match[3])
        if not name:
            continue
        if len(found) >= MAX_HEREDOCS:
            raise DockerfileError(f"more than {MAX_HEREDOCS} here-documents in one instruction", line=first)
        content = []
        while True:
            if at >= len(lines):
                raise SyntaxMistake("unterminated heredoc", line=first,
                                    hint=f"<<{shown(name, 40)} ends with a line that is {shown(name, 40)} alone")
            line = lines[at].lstrip("\t") if match[2] else lines[at]
            at += 1
            if line == name:
                break
            content.append(line + "\n")
        found.append(Heredoc(name=name, content="".join(content), expand=name == match[3], chomp=bool(match[2]),
                             descriptor=match[1]))
    return tuple(found), at


def raw_words(text: str) -> list[str]:
    """What blanks outside of quotes separate; the quotes stay."""
    words, word, quote = [], "", ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char.isspace():
            words.append(word)
            word = ""
            continue
        word += char
    return [item for item in [*words, word] if item]


def parse_heredoc_mark(word: str) -> str:
    """The name in a `<<NAME`; empty where the word is none."""
    match = _HEREDOC.match(word)
    return re.sub(r"[\"'\\]", "", match[3]) if match is not None and not match[1] else ""
