"""Reading plain data with advice: every problem is collected with its path and line before anyone is told.

The data is that of a YAML document, where every scalar is text, or Python's own; a problem never stops the reading.
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.money import ZERO, InvalidAmount, Money
from payre_mcp.pricing.document import Document
from payre_mcp.text import shown

LARGEST_INTEGER = 2**53 - 1

_INTEGER = re.compile(r"(0|[1-9][0-9]*(_[0-9]+)*)", re.ASCII)
_LEADING_ZERO = re.compile(r"\$?0[0-9]", re.ASCII)
_LONGEST_INTEGER = 30

Word = TypeVar("Word", bound=str)


class Reader:
    """The problems and warnings of one source, and how to read each kind of value in it."""

    def __init__(self, document: Document | None = None) -> None:
        self.document = document or Document()
        self.problems: list[Problem] = list(self.document.problems)
        self.warnings: list[Problem] = []

    def problem(self, code: str, path: str, message: str) -> None:
        """Note what is wrong."""
        self.problems.append(Problem(code, path, message, self.document.line(path)))

    def warn(self, code: str, path: str, message: str) -> None:
        """Note what works and may surprise."""
        self.warnings.append(Problem(code, path, message, self.document.line(path)))

    def check(self, source: str | None = None) -> None:
        """Raise `PriceSpecInvalid` with all that is wrong, if anything is."""
        if self.problems:
            raise PriceSpecInvalid(sorted(dict.fromkeys(self.problems), key=lambda each: each.line), source=source)

    def at(self, path: str) -> str:
        """` (line 14)`, where there are lines."""
        line = self.document.line(path)
        return f" (line {line})" if line else ""

    def mapping(self, value: object, path: str, known: Collection[str], unsupported: Mapping[str, str] | None = None) -> "Fields":
        """A mapping with these keys and no other. `unsupported` are keys of pay.sh that we refuse, each with its advice."""
        if not isinstance(value, Mapping):
            self.problem("entry_invalid", path, f"a mapping with {', '.join(known)} belongs here, not {shown(value)}")
            return Fields(self, {}, path)
        mapping = cast("Mapping[object, Any]", value)
        for key in mapping:
            name = key if isinstance(key, str) else shown(key)
            if unsupported and key in unsupported:
                self.problem("unsupported_field", join(path, name), f"{name} is not supported: {unsupported[name]}")
            elif key not in known:
                self.problem("unknown_key", join(path, name[:80]), f"unknown key {shown(key)}{nearest(name, known)}")
        return Fields(self, cast("Mapping[str, Any]", mapping), path)

    def items(self, value: object, path: str) -> Sequence[object]:
        """A list; nothing stands for an empty one."""
        if isinstance(value, list | tuple):
            return cast("Sequence[object]", value)
        if value is not None:
            self.problem("entry_invalid", path, f"a list belongs here, not {shown(value)}")
        return ()

    def amount(self, value: object, path: str) -> Money:
        """A price: dollars as text or number, exact."""
        try:
            if isinstance(value, str) and _LEADING_ZERO.match(value):
                message = f"{shown(value, 40)} has a leading zero, which some read as octal; write it without"
                raise InvalidAmount("price_syntax", message)
            return Money.parse(cast("str", value))
        except InvalidAmount as error:
            self.problem(error.code, path, str(error))
            return ZERO

    def integer(self, value: object, path: str, code: str, least: int = 1) -> int:
        """A whole number from `least` to 2^53 - 1; `_` may stand between digits of a text."""
        number = _integer(value)
        if number is None or not least <= number <= LARGEST_INTEGER:
            self.problem(code, path, f"a whole number from {least} to 2^53 - 1 belongs here, not {shown(value)}")
            return least
        return number

    def word(self, value: object, path: str, code: str, words: Sequence[Word], what: str) -> Word:
        """One of a closed set of words; the first of them stands in for a wrong one."""
        if not isinstance(value, str) or value not in words:
            self.problem(code, path, f"no {what} {shown(value)}{nearest(value if isinstance(value, str) else '', words)}")
            return words[0]
        return cast("Word", value)

    def text(self, value: object, path: str, code: str = "entry_invalid") -> str:
        """Text for people."""
        if not isinstance(value, str):
            self.problem(code, path, f"text belongs here, not {shown(value)}")
            return ""
        return value


class Fields:
    """A mapping that is being read: its values by name or alias, each with its own path."""

    def __init__(self, reader: Reader, values: Mapping[str, Any], path: str) -> None:
        self.reader, self.values, self.path = reader, values, path

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    def at(self, name: str) -> str:
        """The path of a field."""
        return join(self.path, name)

    def one_of(self, *names: str) -> str | None:
        """Which of a field and its aliases is there; two of them are a `duplicate_field`."""
        present = [name for name in names if name in self.values]
        if len(present) > 1:
            places = " and ".join(f"{name}{self.reader.at(self.at(name))}" for name in present)
            self.reader.problem("duplicate_field", self.at(present[1]), f"{places} say the same; keep one")
        return present[0] if present else None

    def amount(self, name: str) -> Money:
        """A price."""
        return self.reader.amount(self[name], self.at(name))

    def integer(self, name: str, code: str, least: int = 1) -> int:
        """A whole number."""
        return self.reader.integer(self[name], self.at(name), code, least)

    def word(self, name: str, code: str, words: Sequence[Word], what: str) -> Word:
        """A word of a closed set."""
        return self.reader.word(self[name], self.at(name), code, words, what)

    def text(self, name: str, code: str = "entry_invalid") -> str:
        """Text for people, empty where there is none."""
        return self.reader.text(self[name], self.at(name), code) if self[name] is not None else ""

    def notes(self, name: str = "notes") -> str:
        """Text for people in one piece or several, empty where there is none."""
        if not isinstance(self[name], list | tuple):
            return self.text(name)
        return "; ".join(self.reader.text(item, path) for item, path in self.items(name))

    def items(self, name: str) -> list[tuple[object, str]]:
        """Each of a list with its path."""
        return [(item, f"{self.at(name)}[{at}]") for at, item in enumerate(self.reader.items(self[name], self.at(name)))]


def join(path: str, name: str) -> str:
    """The path of something inside."""
    return f"{path}.{name}" if path else name


def nearest(word: str, known: Collection[str]) -> str:
    """Advice: the known word that is meant, or all of them."""
    near = difflib.get_close_matches(word[:80], known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f"; known are {', '.join(known)}"


def _integer(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST_INTEGER and _INTEGER.fullmatch(value):
        return int(value)
    return None
