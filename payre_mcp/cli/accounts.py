"""`payre keys`, `payre balance`, `payre top-up`: for whoever keeps the ledger."""

from pathlib import Path

import anyio

from payre_mcp.cli.output import columns, emit, open_chosen_ledger
from payre_mcp.connection import Connection
from payre_mcp.directory import Consumer
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.keys import Role
from payre_mcp.money import InvalidAmount, Money


def create_key(*, data: Path | None, consumer: str | None, new: bool, label: str, json: bool) -> None:
    """Make a consumer key; a ledger without consumers gets its first."""
    connection = open_chosen_ledger(data)
    try:
        directory = connection.ledger.directory
        fresh = new or not (consumer or directory.consumers())
        owner = directory.create_consumer(label or "consumer") if fresh else _consumer(connection, consumer)
        key = directory.create_key(Role.CONSUMER, owner.id, label=label)
        owner_id = format_id("con", owner.id)
        lines = [key.text, f"for account {owner_id}; shown only now. Add test money with: payre top-up 5 --consumer {owner_id}"]
        emit({"consumer_key": key.text, "consumer": owner_id}, lines, as_json=json)
    finally:
        connection.close()


def list_keys(*, data: Path | None, json: bool) -> None:
    """List all keys."""
    connection = open_chosen_ledger(data)
    try:
        rows = [
            {
                "id": format_id("key", key.id),
                "key": key.shown,
                "owner": format_id("con" if key.role == Role.CONSUMER else "dev", key.owner_id),
                "label": key.label,
                "state": "revoked" if key.revoked_at else "active",
            }
            for key in connection.ledger.directory.list_keys()
        ]
        emit(rows, columns([list(row.values()) for row in rows]) or ["No keys."], as_json=json)
    finally:
        connection.close()


def revoke_key(*, key_id: str, data: Path | None, json: bool) -> None:
    """Refuse a key from now on."""
    connection = open_chosen_ledger(data)
    try:
        connection.ledger.directory.revoke_key(parse_id("key", key_id))
        emit({"id": key_id, "state": "revoked"}, [f"{key_id} is revoked."], as_json=json)
    finally:
        connection.close()


def show_balance(*, data: Path | None, consumer: str | None, json: bool) -> None:
    """Show a consumer's balance."""
    connection = open_chosen_ledger(data)
    try:
        _emit_balance(connection, _consumer(connection, consumer), json=json)
    finally:
        connection.close()


def top_up(*, amount: str, data: Path | None, consumer: str | None, json: bool) -> None:
    """Add test money."""
    try:
        money = Money.parse(amount)
    except InvalidAmount as error:
        raise InvalidRequest(f"{error}; nothing was credited") from None
    connection = open_chosen_ledger(data)
    try:
        owner = _consumer(connection, consumer)
        anyio.run(connection.top_ups.credit_test_money, owner.id, money)
        _emit_balance(connection, owner, json=json)
    finally:
        connection.close()


def _consumer(connection: Connection, wanted: str | None) -> Consumer:
    """The consumer that is meant. Raises `NotFound` where there is none, `InvalidRequest` where there is a choice."""
    consumers = connection.ledger.directory.consumers()
    if wanted is not None:
        number = parse_id("con", wanted)
        found = [each for each in consumers if each.id == number]
        if not found:
            raise NotFound(f"no consumer {wanted}")
        return found[0]
    if not consumers:
        raise NotFound("this ledger has no consumer yet; make one with: payre keys create")
    if len(consumers) > 1:
        known = ", ".join(f"{format_id('con', each.id)} ({each.name})" for each in consumers)
        raise InvalidRequest(f"say which consumer with --consumer: {known}")
    return consumers[0]


def _emit_balance(connection: Connection, consumer: Consumer, *, json: bool) -> None:
    account = connection.ledger.journal.account(consumer.part, consumer.id)
    assert account is not None
    balance, available = Money(account.balance_micros), Money(account.available_micros)
    document = {
        "consumer": format_id("con", consumer.id),
        "balance_micros": balance.micros,
        "balance_usd": balance.usd,
        "held_micros": account.held_micros,
        "available_micros": available.micros,
        "available_usd": available.usd,
        "mode": connection.ledger.directory.mode,
    }
    emit(document, [f"{balance} ({available} available) in {document['consumer']}, test money"], as_json=json)
