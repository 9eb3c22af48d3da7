"""A whole price file: ours, with an entry per tool, resource and prompt, or pay.sh's, with a list of endpoints."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from payre_mcp.errors import PriceSpecInvalid, Problem
from payre_mcp.money import ZERO
from payre_mcp.pricing.dimensions import Target
from payre_mcp.pricing.document import LARGEST, read_yaml
from payre_mcp.pricing.entry import (
    METERING,
    METERING_ALIASES,
    POLICIES,
    REFUSED,
    Defaults,
    per_call,
    read_counter,
    read_entry,
    read_metering,
    read_quota,
)
from payre_mcp.pricing.reader import Fields, Reader, join
from payre_mcp.pricing.spec import PriceSpec
from payre_mcp.text import shown

KINDS = {"tools": "tool", "resources": "resource", "prompts": "prompt"}
DEFAULTS = ("max_price_usd", "missing_usage", "counter", "free_quota")
OURS = ("version", "currency", "default", "defaults", *KINDS)
IGNORED = (
    "name",
    "subdomain",
    "title",
    "description",
    "category",
    "version",
    "routing",
    "env",
    "operator",
    "session",
    "notes",
    "profile",
)
"""What a pay.sh file says of its gateway; here the server says it."""

ENDPOINTS = ("endpoints", "currency", "default", "defaults", "free_tier", "accounting", *IGNORED)
ENDPOINT = ("method", "path", "description", "metering", "tool", "resource", "routing")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_VERSION_SEGMENT = re.compile(r"v[0-9][^/]*/", re.ASCII)
_PLACEHOLDER = re.compile(r"\{[^}]*\}")
_OTHER = re.compile(r"[^A-Za-z0-9]+", re.ASCII)


@dataclass(frozen=True)
class PriceList:
    """The prices of one server, and what becomes of a target that has none."""

    prices: Mapping[Target, PriceSpec]
    default: Literal["free", "deny"] = "free"
    warnings: tuple[Problem, ...] = ()
    """What works and may surprise: `ceiling_defaulted`, `ignored_field`."""
    places: Mapping[Target, tuple[str, int]] = field(default_factory=dict[Target, tuple[str, int]])
    """Path and line of each entry."""
    source: str | None = None
    """The file's name."""

    def problem(self, code: str, target: Target, message: str) -> Problem:
        """A problem of one target, at its place in the file."""
        path, line = self.places.get(target, (target.name, 0))
        return Problem(code, path, message, line)


def load_prices(path: str | Path) -> PriceList:
    """Read a price file, ours or pay.sh's.

    Raises:
        PriceSpecInvalid: Something in it is wrong; `problems` lists all of it, with lines.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(4 * LARGEST + 1).decode()
    except OSError as error:
        raise PriceSpecInvalid([Problem("yaml_syntax", "", f"cannot be read: {error.strerror}")], source=str(path)) from error
    except UnicodeDecodeError as error:
        message = f"not UTF-8 text at byte {error.start}"
        raise PriceSpecInvalid([Problem("yaml_syntax", "", message)], source=str(path)) from error
    return parse_prices(text, source=path.name)


def parse_prices(text: str, *, source: str | None = None) -> PriceList:
    """Read the text of a price file; see `load_prices`."""
    document = read_yaml(text)
    reader = Reader(document)
    data: Any = document.data
    if not isinstance(data, Mapping):
        if not reader.problems:
            reader.problem("yaml_syntax", "", "a price file is a mapping, such as {tools: {search: 0.005}}")
        reader.check(source)
    return _FileReader(reader, cast("Mapping[str, Any]", data), source).price_list()


class _FileReader:
    """One file on its way to a price list."""

    def __init__(self, reader: Reader, data: Mapping[str, Any], source: str | None) -> None:
        self.reader, self.source = reader, source
        self.is_endpoints = "endpoints" in data
        self.fields = reader.mapping(data, "", (*ENDPOINTS, *KINDS) if self.is_endpoints else (*OURS, "endpoints"), REFUSED)
        self.prices: dict[Target, PriceSpec] = {}
        self.places: dict[Target, tuple[str, int]] = {}

    def price_list(self) -> PriceList:
        fields, reader = self.fields, self.reader
        if "currency" in fields and fields["currency"] not in ("usd", "USD"):
            reader.problem(
                "currency_unsupported", "currency", f"money is US dollars: write usd, not {shown(fields['currency'], 40)}"
            )
        default = fields.word("default", "entry_invalid", ("free", "deny"), "default") if "default" in fields else "free"
        defaults = self.defaults()
        if self.is_endpoints:
            self.endpoints(defaults)
        else:
            if "version" in fields and fields["version"] != "1":
                reader.problem(
                    "version_unsupported", "version", f"this is version 1 of the form, not {shown(fields['version'], 40)}"
                )
            for section, kind in KINDS.items():
                self.section(section, kind, defaults)
        reader.check(self.source)
        return PriceList(self.prices, default, tuple(reader.warnings), self.places, self.source)

    def defaults(self) -> Defaults:
        fields = self.reader.mapping(self.fields.values.get("defaults", {}), "defaults", DEFAULTS)
        quotas = {"free_tier": self.fields.values.get("free_tier"), "defaults.free_quota": fields["free_quota"]}
        quota_fields = Fields(self.reader, {name: each for name, each in quotas.items() if each is not None}, "")
        name = quota_fields.one_of("free_tier", "defaults.free_quota")
        quota = None if name is None else read_quota(self.reader, quota_fields[name], name)
        return Defaults(
            fields.word("missing_usage", "missing_usage_invalid", POLICIES, "policy") if "missing_usage" in fields else "refund",
            read_counter(fields, "month"),
            quota,
            fields.amount("max_price_usd") if "max_price_usd" in fields else None,
        )

    def section(self, section: str, kind: str, defaults: Defaults) -> None:
        if section not in self.fields:
            return
        entries = self.fields[section]
        if not isinstance(entries, Mapping):
            self.reader.problem("entry_invalid", section, f"a mapping from names to prices belongs here, not {shown(entries)}")
            return
        for name, entry in cast("Mapping[str, Any]", entries).items():
            path = join(section, name)
            spec = per_call(ZERO) if entry == "free" else read_entry(self.reader, entry, path, defaults)
            self.add(Target(kind, name), spec, path)

    def endpoints(self, defaults: Defaults) -> None:
        for name in IGNORED:
            if name in self.fields:
                self.reader.warn("ignored_field", name, f"{name} has no meaning here and is ignored")
        for name in KINDS:
            if name in self.fields.values:
                self.reader.problem("form_mixed", name, f"a file has endpoints or {name}, not both")
        if self.fields.values.get("accounting", "per_agent") != "per_agent":
            message = "counters are per consumer always; remove accounting, or write per_agent"
            self.reader.problem("unsupported_field", "accounting", message)
        for item, path in self.fields.items("endpoints"):
            self.endpoint(item, path, defaults)

    def endpoint(self, item: object, path: str, defaults: Defaults) -> None:
        fields = self.reader.mapping(item, path, ENDPOINT, REFUSED)
        if "method" in fields:
            fields.word("method", "entry_invalid", METHODS, "method")
        for name in ("resource", "routing"):
            if name in fields:
                self.reader.warn("ignored_field", fields.at(name), f"{name} has no meaning here and is ignored")
        tool = fields.text("tool") or tool_name(fields.text("path"))
        if not tool:
            self.reader.problem("entry_invalid", path, "an endpoint needs a path, or the name of its tool")
        spec = per_call(ZERO)
        if "metering" in fields:
            known = (*METERING, *METERING_ALIASES)
            spec = read_metering(self.reader.mapping(fields["metering"], fields.at("metering"), known, REFUSED), defaults)
        self.add(Target("tool", tool), replace(spec, description=fields.text("description")), path)

    def add(self, target: Target, spec: PriceSpec, path: str) -> None:
        if target in self.prices:
            other = self.places[target][0]
            message = f"the {target.kind} {target.name!r} has a price already at {other}{self.reader.at(other)}"
            self.reader.problem("duplicate_target", path, message)
        self.prices[target] = spec
        self.places[target] = (path, self.reader.document.line(path))


def tool_name(path: str) -> str:
    """The tool of an endpoint: its path without version and placeholders, other characters as one `_`.

    >>> tool_name("v1/models/{id}:generate")
    'models_generate'
    """
    path = _VERSION_SEGMENT.sub("", path.lstrip("/"), count=1) if _VERSION_SEGMENT.match(path.lstrip("/")) else path
    return _OTHER.sub("_", _PLACEHOLDER.sub("", path)).strip("_")
