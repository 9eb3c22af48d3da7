"""`payre keys`: make, list, limit, rotate and revoke keys. Only a person raises a limit, and here is where."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from payre_mcp.cli.accounts import chosen_consumer
from payre_mcp.cli.output import columns, emit, open_chosen_ledger
from payre_mcp.clock import US_PER_S
from payre_mcp.connection import Connection
from payre_mcp.directory import NO_LIMITS, KeyRecord, SpendingLimits
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import Role
from payre_mcp.money import InvalidAmount, Money

_HOUR_US = 3600 * US_PER_S
_DAY_US = 24 * _HOUR_US

Asked = Mapping[str, str | Sequence[str] | None]
"""The `--limit-` options as they were written: `call`, `day`, `month`, and `tools` as NAME=USD."""


def create(
    *, data: Path | None, consumer: str | None, new: bool, label: str, server: str | None, expires_days: int, limits: Asked,
    json: bool,
) -> None:  # fmt: skip
    """Make a consumer key; a ledger without consumers gets its first."""
    wanted = _changed(NO_LIMITS, limits)
    connection = open_chosen_ledger(data)
    try:
        directory = connection.ledger.directory
        server_id = directory.ensure_server(directory.sole_developer().id, server).id if server else 0
        fresh = new or not (consumer or directory.consumers())
        owner = directory.create_consumer(label or "consumer") if fresh else chosen_consumer(connection, consumer)
        expires_at = connection.ledger.clock.now_us() + expires_days * _DAY_US if expires_days else 0
        key = directory.create_key(
            Role.CONSUMER, owner.id, label=label, server_id=server_id, expires_at=expires_at, limits=wanted
        )
        owner_id = format_id("con", owner.id)
        lines = [key.text, f"for account {owner_id}; shown only now. Add test money with: payre top-up 5 --consumer {owner_id}"]
        emit({"consumer_key": key.text, "consumer": owner_id, "limits": _document(wanted)}, lines, as_json=json)
    finally:
        connection.close()


def list_all(*, data: Path | None, json: bool) -> None:
    """List all keys."""
    connection = open_chosen_ledger(data)
    try:
        now = connection.ledger.clock.now_us()
        keys = connection.ledger.directory.list_keys()
        rows = [
            {
                "id": format_id("key", key.id),
                "key": key.shown,
                "owner": format_id("con" if key.role == Role.CONSUMER else "dev", key.owner_id),
                "label": key.label,
                "state": _state(key, now),
            }
            for key in keys
        ]
        lines = columns([[*row.values(), str(key.limits)] for row, key in zip(rows, keys, strict=True)])
        document = [{**row, "limits": _document(key.limits)} for row, key in zip(rows, keys, strict=True)]
        emit(document, lines or ["No keys."], as_json=json)
    finally:
        connection.close()


def revoke(*, key_id: str, data: Path | None, json: bool) -> None:
    """Refuse a key from now on."""
    connection = open_chosen_ledger(data)
    try:
        connection.ledger.directory.revoke_key(parse_id("key", key_id))
        emit({"id": key_id, "state": "revoked"}, [f"{key_id} is revoked."], as_json=json)
    finally:
        connection.close()


def limit(*, key_id: str, limits: Asked, none: bool, data: Path | None, json: bool) -> None:
    """Show what a key may spend, or change it: what is not named stays as it is, unless `none` clears it first."""
    connection = open_chosen_ledger(data)
    try:
        key = _key(connection, key_id)
        wanted = _changed(NO_LIMITS if none else key.limits, limits)
        if wanted != key.limits:
            connection.ledger.directory.set_limits(key.id, wanted)
        emit({"id": key_id, "limits": _document(wanted)}, [f"{key_id}: {wanted}"], as_json=json)
    finally:
        connection.close()


def rotate(*, key_id: str, overlap_hours: float, data: Path | None, json: bool) -> None:
    """Make a new key in place of one that stops working after a while."""
    connection = open_chosen_ledger(data)
    try:
        old = _key(connection, key_id)
        key = connection.ledger.directory.rotate_key(old.id, overlap_us=round(overlap_hours * _HOUR_US))
        lines = [key.text, f"in place of {key_id}, which works for {overlap_hours:g} more hours; shown only now"]
        emit({"consumer_key": key.text, "replaces": key_id}, lines, as_json=json)
    finally:
        connection.close()


def _key(connection: Connection, key_id: str) -> KeyRecord:
    number = parse_id("key", key_id)
    found = next((key for key in connection.ledger.directory.list_keys() if key.id == number), None)
    if found is None:
        raise NotFound("no such key")
    return found


def _state(key: KeyRecord, now: int) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if 0 < key.expires_at <= now else "active"


def _changed(limits: SpendingLimits, asked: Asked) -> SpendingLimits:
    """Limits with those in place of them that were asked for."""
    named = [each.partition("=") for each in asked["tools"] or ()]
    wrong = [name for name, equals, _ in named if not (name and equals)]
    if wrong:
        raise InvalidRequest(f"a limit of a tool is written NAME=USD, not {wrong[0]!r}; nothing was changed")
    tools = {**limits.tools, **{name: _money(usd) for name, _, usd in named}}
    amounts = {name: _money(usd) for name, usd in asked.items() if name != "tools" and isinstance(usd, str)}
    return replace(limits, tools=tools, **amounts)


def _money(usd: str) -> Money:
    try:
        return Money.parse(usd)
    except InvalidAmount as error:
        raise InvalidRequest(f"{error}; nothing was changed") from None


def _document(limits: SpendingLimits) -> dict[str, object]:
    amounts = {"call": limits.call, "day": limits.day, "month": limits.month}
    out: dict[str, object] = {}
    for name, amount in amounts.items():
        if amount is not None:
            out |= {f"{name}_micros": amount.micros, f"{name}_usd": amount.usd}
    if limits.tools:
        out["tools"] = {name: {"day_micros": each.micros, "day_usd": each.usd} for name, each in limits.tools.items()}
    return out
