"""Quotes, escapes and variables in the arguments of an instruction, as Docker's reference has them.

`$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME-word}`, `${NAME:+word}`, `${NAME+word}`, `${NAME:?word}`, `${NAME?word}`,
`${NAME#pattern}`, `##`, `%`, `%%`, `${NAME/pattern/word}` and `//`. Nothing is expanded between single quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hyperstack.dockerfile.errors import DockerfileError, StageError, quoted, shown

MAX_EXPANDED = 1 << 20
"""Characters of one expanded argument: variables that hold each other grow fast."""
_MAX_DEPTH = 32
"""Of `${A:-${B:-...}}`."""
_MAX_COMPARED = 1 << 23
"""Characters: some seconds of work at worst."""
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SPECIAL = "@*#?-$!0123456789"
"""What a shell has and a Dockerfile has not: empty."""

Expander = Callable[[str], str]


class _Lexer:
    """One pass over a text. Words end at blanks outside of quotes where `split` says so."""

    def __init__(self, text: str, values: Mapping[str, str], escape: str, *, quotes: bool, depth: int = 0) -> None:
        self._text = text
        self._values = values
        self._escape = escape
        self._quotes = quotes
        self._at = 0
        self._depth = depth
        if depth > _MAX_DEPTH:
            raise DockerfileError("variables are nested too deeply")

    def words(self) -> list[str]:
        """Split at blanks, also at those of a variable's value."""
        words: list[str] = []
        word, begun = "", False
        while self._at < len(self._text):
            char = self._text[self._at]
            if char.isspace():
                self._at += 1
                if begun:
                    words.append(word)
                word, begun = "", False
            elif char == "$":
                head, *more = re.split(r"\s+", self._variable()) or [""]
                word, begun = word + head, begun or bool(head)
                for part in more:
                    if begun:
                        words.append(word)
                    word, begun = part, bool(part)
            else:
                word, begun = word + self._piece(), True
        return [*words, word] if begun else words

    def all(self) -> str:
        return self.until("")

    def until(self, ends: str) -> str:
        """Up to one of `ends`, which is left where it is, or to the end of the text."""
        out: list[str] = []
        size = 0
        while self._at < len(self._text) and self._text[self._at] not in ends:
            out.append(self._variable() if self._text[self._at] == "$" else self._piece())
            size += len(out[-1])
            if size > MAX_EXPANDED:
                raise DockerfileError(f"an argument expands to more than {MAX_EXPANDED} characters")
        return "".join(out)

    def _piece(self) -> str:
        char = self._text[self._at]
        self._at += 1
        if char == self._escape:
            if self._at == len(self._text):
                return "" if self._quotes else char
            self._at += 1
            escaped = self._text[self._at - 1]
            return escaped if self._quotes or escaped in ("$", self._escape) else char + escaped
        if not self._quotes or char not in "\"'":
            return char
        return self._single() if char == "'" else self._double()

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        found, self._at = self._text[self._at:end], end + 1
        return found

    def _double(self) -> str:
        out: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(out)
            if char == "$":
                out.append(self._variable())
                continue
            self._at += 1
            if char == self._escape and self._at < len(self._text):
                escaped = self._text[self._at]
                self._at += 1
                out.append(escaped if escaped in ('"', "$", self._escape) else char + escaped)
            else:
                out.append(char)
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        self._at += 1
        if self._text[self._at:self._at + 1] == "{":
            self._at += 1
            return self._braces()
        name = self._name()
        if name is None:
            return "$"
        return self._values.get(name, "")

    def _name(self) -> str | None:
        match = _NAME.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
            return match[0]
        if self._text[self._at:self._at + 1] and self._text[self._at] in _SPECIAL:
            self._at += 1
            return self._text[self._at - 1]
        return None

    def _braces(self) -> str:
        name = self._name()
        if name is None:
            raise DockerfileError(f"bad substitution in {shown(self._text, 80)!r}")
        value = self._values.get(name)
        following = self._text[self._at:self._at + 1]
        if following == "}":
            self._at += 1
            return value or ""
        if following and following in "#%/":
            return self._pattern(following, value or "")
        colon = following == ":"
        self._at += colon
        operator = self._text[self._at:self._at + 1]
        if not operator or operator not in "-+?":
            raise DockerfileError(f"unsupported modifier ({':' * colon}{operator}) in substitution")
        self._at += 1
        word = self._closing()
        absent = value is None or (colon and not value)
        if operator == "+":
            return "" if absent else word
        if not absent:
            return value or ""
        if operator == "?":
            what = word or ("is not allowed to be empty" if colon else "is not allowed to be unset")
            raise DockerfileError(f"{name}: {shown(what)}")
        return word

    def _closing(self) -> str:
        """The expanded word up to the closing brace."""
        inner = _Lexer(self._text, self._values, self._escape, quotes=self._quotes, depth=self._depth + 1)
        inner._at = self._at
        word = inner.until("}")
        self._at = inner._at
        if self._text[self._at:self._at + 1] != "}":
            raise DockerfileError("syntax error: missing '}' in a substitution")
        self._at += 1
        return word

    def _pattern(self, operator: str, value: str) -> str:
        self._at += 1
        greedy = self._text[self._at:self._at + 1] == operator
        self._at += greedy
        if operator != "/":
            return _stripped(value, self._closing(), greedy=greedy, prefix=operator == "#")
        inner = _Lexer(self._text, self._values, self._escape, quotes=self._quotes, depth=self._depth + 1)
        inner._at = self._at
        pattern = inner.until("/}")
        self._at = inner._at
        replacement = ""
        if self._text[self._at:self._at + 1] == "/":
            self._at += 1
            replacement = self._closing()
        elif self._text[self._at:self._at + 1] == "}":
            self._at += 1
        else:
            raise DockerfileError("syntax error: missing '}' in a substitution")
        return _replaced(value, pattern, replacement, every=greedy)


def _matches(pattern: str, text: str) -> bool:
    """Whether a shell pattern of `*`, `?` and literal characters is all of the text; in time bounded by the product of
    their lengths, whatever the pattern."""
    star, mark, at, position = -1, 0, 0, 0
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, position, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at, position = at + 1, position + 1
        elif star >= 0:
            at, mark = star + 1, mark + 1
            position = mark
        else:
            return False
    return not pattern[at:].strip("*")


def _stripped(value: str, pattern: str, *, greedy: bool, prefix: bool) -> str:
    _bound(value, pattern, len(value) ** 2)
    lengths = range(len(value), -1, -1) if greedy else range(len(value) + 1)
    for length in lengths:
        part, rest = (value[:length], value[length:]) if prefix else (value[len(value) - length:],
                                                                      value[:len(value) - length])
        if _matches(pattern, part):
            return rest
    return value


def _replaced(value: str, pattern: str, replacement: str, *, every: bool) -> str:
    _bound(value, pattern, len(value) ** 3)
    if not pattern:
        return value
    out, at = [], 0
    while at < len(value):
        length = next((size for size in range(len(value) - at, 0, -1) if _matches(pattern, value[at:at + size])), 0)
        if not length:
            out.append(value[at])
            at += 1
            continue
        out.append(replacement)
        at += length
        if not every:
            break
    return "".join(out) + value[at:]


def _bound(value: str, pattern: str, parts: int) -> None:
    """:param parts: of the value, that are compared with the pattern."""
    if parts * len(pattern) > _MAX_COMPARED:
        raise DockerfileError(f"a value of {len(value)} characters is too long for a pattern")


def expand(text: str, values: Mapping[str, str], escape: str = "\\", *, quotes: bool = True) -> str:
    """One argument: quotes taken off (where `quotes` says so), variables replaced.

    :raise DockerfileError: a quote or brace is not closed, or a variable that must be set is not.
    """
    try:
        return _Lexer(text, values, escape, quotes=quotes).all()
    except DockerfileError as error:
        raise _unprocessed(text, error) from None


def expand_words(text: str, values: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As many words as there are once variables are replaced. Errors as `expand`."""
    try:
        return _Lexer(text, values, escape, quotes=True).words()
    except DockerfileError as error:
        raise _unprocessed(text, error) from None


def _unprocessed(text: str, error: DockerfileError) -> StageError:
    return StageError(f"failed to process {quoted(text)}: {error.reason}", hint=error.remedy)
