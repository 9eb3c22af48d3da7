"""`payre balance`, `payre top-up`: for whoever keeps the ledger."""

from pathlib import Path

import anyio

from payre_mcp.cli.output import emit, open_chosen_ledger
from payre_mcp.connection import Connection
from payre_mcp.directory import Consumer
from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.money import InvalidAmount, Money


def show_balance(*, data: Path | None, consumer: str | None, json: bool) -> None:
    """Show a consumer's balance."""
    connection = open_chosen_ledger(data)
    try:
        _emit_balance(connection, chosen_consumer(connection, consumer), json=json)
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
        owner = chosen_consumer(connection, consumer)
        anyio.run(connection.top_ups.credit_test_money, owner.id, money)
        _emit_balance(connection, owner, json=json)
    finally:
        connection.close()


def chosen_consumer(connection: Connection, wanted: str | None) -> Consumer:
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
    credit = connection.ledger.directory.credits_of(consumer.id)
    document: dict[str, object] = {
        "consumer": format_id("con", consumer.id),
        "balance_micros": balance.micros,
        "balance_usd": balance.usd,
        "held_micros": account.held_micros,
        "available_micros": available.micros,
        "available_usd": available.usd,
        "mode": connection.ledger.directory.mode,
    }
    if credit:
        document["credit"] = [
            {"server": server.name, "available_micros": free.micros, "available_usd": free.usd} for server, free in credit
        ]
    lines = [f"{balance} ({available} available) in {document['consumer']}, {document['mode']} money"]
    lines += [f"{free} free credit at {server.name}" for server, free in credit]
    emit(document, lines, as_json=json)
