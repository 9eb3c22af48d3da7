"""Lists, newest first, page by page; and the expansion of ids to the objects that they name."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json

_MOST = 100
_DEEPEST = 4
_BOUNDS: dict[str, Callable[[int, int], bool]] = {
    "gt": int.__gt__,
    "gte": int.__ge__,
    "lt": int.__lt__,
    "lte": int.__le__,
}


def page(things: Sequence[Json], params: Json, url: str, *, by: Sequence[str] = ()) -> Json:
    """A page of these things. `by` names the parameters that select by the field of the same name."""
    limit = params.get("limit", 10)
    if not 1 <= limit <= _MOST:
        raise invalid(f"Invalid limit: must be 1 to {_MOST}", "limit", code="parameter_invalid_integer")
    chosen = [thing for thing in things if _created_in(thing, params.get("created")) and _chosen(thing, params, by)]
    if "ending_before" in params:
        end = _place(chosen, params["ending_before"], "ending_before")
        return _list(chosen[max(0, end - limit) : end], url, more=end > limit)
    start = _place(chosen, params["starting_after"], "starting_after") + 1 if "starting_after" in params else 0
    return _list(chosen[start : start + limit], url, more=len(chosen) > start + limit)


def expanded(store: Store, reply: Json, paths: Sequence[str]) -> Json:
    """A reply with objects in the place of their ids, along paths such as `latest_charge.balance_transaction`."""
    reply = deepcopy(reply) if paths else reply
    for path in paths:
        steps = path.split(".")
        if len(steps) > _DEEPEST:
            raise invalid(f"You cannot expand more than {_DEEPEST} levels of a property: {path}", "expand")
        _expand(store, reply, steps, path)
    return reply


def _list(data: Sequence[Json], url: str, *, more: bool) -> Json:
    return {"object": "list", "data": list(data), "has_more": more, "url": url}


def _chosen(thing: Json, params: Json, by: Sequence[str]) -> bool:
    return all(thing.get(name) == params[name] for name in by if name in params)


def _created_in(thing: Json, window: Json | int | None) -> bool:
    if window is None:
        return True
    if isinstance(window, int):
        return bool(thing["created"] == window)
    return all(_BOUNDS[name](thing["created"], bound) for name, bound in window.items())


def _place(things: Sequence[Json], wanted: str, param: str) -> int:
    for place, thing in enumerate(things):
        if thing["id"] == wanted:
            return place
    raise Refusal(f"No such object in this list: '{wanted}'", code="resource_missing", param=param)


def _expand(store: Store, value: Any, steps: Sequence[str], path: str) -> None:
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            _expand(store, one, steps, path)
        return
    step, rest = steps[0], steps[1:]
    hidden = store.more.get(value.get("id", ""), {})
    if step in hidden and step not in value:
        value[step] = deepcopy(hidden[step])
    inner = value.get(step)
    if isinstance(inner, str):
        found = store.find(inner)
        inner = value[step] = deepcopy(found)
    if step not in value or (inner is not None and not isinstance(inner, dict | list)):
        raise Refusal(f"This property cannot be expanded ({path}).", param="expand")
    if rest and inner is not None:
        _expand(store, inner, rest, path)
