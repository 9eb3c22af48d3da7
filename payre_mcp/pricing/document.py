"""Reading YAML into plain data without believing it: every scalar stays the text that was written.

A YAML loader would make floats of prices, turn `yes` into true, and keep the last of two equal keys. So the document is
built here from the parser's events, with the line of everything in it, and with bounds on size, depth and expansion.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from payre_mcp.errors import Problem

LARGEST = 1_000_000
"""Characters of a price file."""

DEEPEST = 20
"""Levels of nesting; a price file has nine."""

MOST_NODES = 200_000
"""Values of a document after its aliases are followed: a file of ten references to ten references stops here."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where the wheel has it: ten times as fast; only its events are used."""


@dataclass
class Document:
    """A YAML document as mappings, lists, text and None, and where everything stands."""

    data: Any = None
    lines: dict[str, int] = field(default_factory=dict[str, int])
    """Lines from 1, by path: `tools.render.metering.dimensions[0].unit`."""
    problems: list[Problem] = field(default_factory=list[Problem])

    def line(self, path: str) -> int:
        """The line of a path, or of the nearest thing around it that stands in the document."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 0)


def read_yaml(text: str) -> Document:
    """Read one YAML document. Problems are collected in it, as `yaml_syntax` and `duplicate_key`; nothing is raised."""
    document = Document()
    if len(text) > LARGEST:
        document.problems.append(
            Problem("yaml_syntax", "", f"a price file has at most {LARGEST:,} characters, not {len(text):,}")
        )
        return document
    try:
        document.data = _Builder(document, _events(text)).document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        document.problems.append(Problem("yaml_syntax", "", f"not YAML: {error.problem or error.context}", line))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        document.problems.append(Problem("yaml_syntax", "", f"not YAML: {reason[:200]}"))
    except UnicodeEncodeError:
        document.problems.append(Problem("yaml_syntax", "", "not YAML: it holds half of a surrogate pair"))
    except _Stop as stop:
        document.problems.append(stop.problem)
    return document


def _events(text: str) -> Iterator[Any]:
    return yaml.parse(text, Loader=_LOADER)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class _Stop(Exception):
    """Reading on would be of no use."""

    def __init__(self, message: str, line: int, path: str = "") -> None:
        super().__init__(message)
        self.problem = Problem("yaml_syntax", path, message, line)


class _Builder:
    """Turns a stream of parser events into plain data, one document, bounded."""

    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self.out, self.events = document, events
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        """What was named, how many values are in it, and how deep they go."""
        self.nodes = 0
        self.reached = 0
        """The deepest level of the value that is being read."""

    def document(self) -> Any:
        self.expect(yaml.StreamStartEvent)
        if isinstance(event := next(self.events), yaml.StreamEndEvent):
            raise _Stop("the document is empty", 1)
        data = self.node(next(self.events), "", 0)
        self.expect(yaml.DocumentEndEvent)
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Stop("a price file is one document; a second one starts here", _line(event))
        return data

    def expect(self, kind: type) -> None:
        event = next(self.events)
        assert isinstance(event, kind), event

    def node(self, event: Any, path: str, depth: int) -> Any:
        line = _line(event)
        self.out.lines.setdefault(path, line)
        nodes, reached = self.nodes, self.reached
        self.count(1, line, path)
        self.reach(depth, line, path)
        if isinstance(event, yaml.AliasEvent):
            data = self.alias(event, path, depth)
        else:
            data = self.value(event, path, depth)
            if event.anchor is not None:
                self.anchors[event.anchor] = (data, self.nodes - nodes, self.reached - depth)
        self.reached = max(reached, self.reached)
        return data

    def value(self, event: Any, path: str, depth: int) -> Any:
        if event.tag is not None:
            raise _Stop(f"no tags: remove {event.tag[:40]!r}", _line(event), path)
        if isinstance(event, yaml.ScalarEvent):
            return None if event.implicit[0] and event.value in ("", "~", "null") else event.value
        return self.sequence(path, depth) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(path, depth)

    def alias(self, event: Any, path: str, depth: int) -> Any:
        line = _line(event)
        if event.anchor not in self.anchors:
            raise _Stop(f"the alias *{event.anchor[:40]} has no anchor before it", line, path)
        data, size, height = self.anchors[event.anchor]
        self.count(size, line, path)
        self.reach(depth + height, line, path)
        return data

    def sequence(self, path: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, f"{path}[{len(items)}]", depth + 1))
        return items

    def mapping(self, path: str, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise _Stop("a key is plain text", line, path)
            name = event.value
            if name == "<<" and event.implicit[0]:
                raise _Stop("no merge keys (<<): write the values out, or use an alias for a whole value", line, path)
            inner = f"{path}.{name}" if path else name
            if name in first:
                message = f"{name[:80]!r} stands twice, on lines {first[name]} and {line}; keep one"
                self.out.problems.append(Problem("duplicate_key", inner, message, line))
            first.setdefault(name, line)
            self.out.lines.setdefault(inner, line)
            self.count(1, line, path)
            value = self.node(next(self.events), inner, depth + 1)
            out.setdefault(name, value)
        return out

    def reach(self, depth: int, line: int, path: str) -> None:
        self.reached = depth
        if depth > DEEPEST:
            raise _Stop(f"nested deeper than {DEEPEST} levels", line, path)

    def count(self, nodes: int, line: int, path: str) -> None:
        self.nodes += nodes
        if self.nodes > MOST_NODES:
            raise _Stop(f"more than {MOST_NODES:,} values after its aliases are followed", line, path)


def _line(event: Any) -> int:
    return event.start_mark.line + 1
