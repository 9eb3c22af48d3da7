"""What comes over the wire: bracketed forms and queries (`line_items[0][quantity]=1`) and JSON, into plain dictionaries."""

import json
import re
from typing import Any, cast
from urllib.parse import parse_qsl

from payre_mcp.processors.fake_stripe.refusals import Refusal

Json = dict[str, Any]

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_STEP = re.compile(r"\[([^\[\]]*)\]")
_DEEPEST = 12


def decode_form(text: str) -> Json:
    """The parameters of a form or a query. Arrays stay maps with integer keys: only their type tells them from maps.

    >>> decode_form("a=1&b[c]=2&d[1]=y&d[0]=x&e[]=z")
    {'a': '1', 'b': {'c': '2'}, 'd': {'1': 'y', '0': 'x'}, 'e': {'0': 'z'}}
    """
    values: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        match = _NAME.fullmatch(name)
        steps = [match[1], *_STEP.findall(match[2])] if match else []
        if not 0 < len(steps) <= _DEEPEST:
            raise Refusal(f"Invalid parameter name: {name}", param=name, executed=False)
        _put(values, steps, value, name)
    return values


def decode_json(body: bytes) -> Json:
    """The parameters of a body of the second API."""
    try:
        values = json.loads(body or b"{}")
    except ValueError as error:
        raise Refusal("The request body is not JSON", executed=False) from error
    if not isinstance(values, dict):
        raise Refusal("The request body is not a JSON object", executed=False)
    return cast("Json", values)


def param_name(parent: str, name: str | int) -> str:
    """How an error names a parameter inside another.

    >>> param_name(param_name("", "line_items"), 0)
    'line_items[0]'
    """
    return f"{parent}[{name}]" if parent else str(name)


def _put(values: Json, steps: list[str], value: str, name: str) -> None:
    """Set one value, making the maps on the way."""
    for step in steps[:-1]:
        inner = values.setdefault(step or str(len(values)), {})
        if not isinstance(inner, dict):
            raise Refusal(f"Invalid parameter: {name} is given as a value and as an object", param=name, executed=False)
        values = cast("Json", inner)
    last = steps[-1] or str(len(values))
    if last in values:
        raise Refusal(f"Invalid parameter: {name} is given twice", param=name, executed=False)
    values[last] = value
