"""`payre top-ups`, `payre charges`: money back, to cards and to balances, for whoever runs the hub."""

from functools import partial
from pathlib import Path

import anyio

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import run
from payre_mcp.cli.billing import document, dollars, existing_ledger, lines, with_billing
from payre_mcp.cli.output import emit
from payre_mcp.connection import Connection
from payre_mcp.directory import Consumer, Developer, Directory
from payre_mcp.errors import NotFound
from payre_mcp.ids import format_id, parse_id
from payre_mcp.money import Money
from payre_mcp.payments import MOST_FAILURES, Payer, PaymentKind, PaymentState

_BY_CARD = (PaymentKind.TOP_UP, PaymentKind.RECHARGE, PaymentKind.REFUND, PaymentKind.DISPUTE)


def show(*, consumer: str | None, limit: int, data: Path | None, url: str | None, json: bool) -> None:
    """List top-ups by card and what went back of them, the newest first."""
    with existing_ledger(data, url) as connection:
        ledger = connection.ledger
        if consumer is None:
            found = ledger.payments.list(_BY_CARD, before=0, limit=limit)
        else:
            owner = find_consumer(ledger.directory, consumer)
            found = ledger.payments.of_owner(owner.id, _BY_CARD, before=0, limit=limit)
    emit([document(payment) for payment in found], lines(found, "No top-ups by card."), as_json=json)


def give_back(*, consumer: str, amount: str | None, data: Path | None, url: str | None, json: bool) -> int:
    """Send unspent money back to the cards that paid it."""
    money = dollars(amount, "nothing was refunded")
    return with_billing(data, url, partial(to_cards, consumer=consumer, amount=money, as_json=json))


async def to_cards(billing: Billing, *, consumer: str, amount: Money | None, as_json: bool) -> int:
    """Send unspent money back to cards; answers 1 when a part of it could not go."""
    owner = await run(find_consumer, billing.ledger.directory, consumer)
    made = await billing.refunds.request(owner.id, amount)
    emit([document(refund) for refund in made], lines(made, ""), as_json=as_json)
    return 1 if any(refund.state == PaymentState.FAILED for refund in made) else 0


def recharge(*, consumer: str, off: bool, data: Path | None, url: str | None, json: bool) -> None:
    """Show when a saved card is charged by itself, or turn it off."""
    if off:
        with_billing(data, url, partial(turn_off, consumer=consumer, as_json=json))
        return
    with existing_ledger(data, url) as connection:
        owner = find_consumer(connection.ledger.directory, consumer)
        _emit_payer(connection.ledger.payments.payer(owner.id) or Payer(owner.id, owner.part), as_json=json)


async def turn_off(billing: Billing, *, consumer: str, as_json: bool) -> None:
    """No more recharges; the card is forgotten."""
    owner = await run(find_consumer, billing.ledger.directory, consumer)
    await billing.recharges.turn_off(owner.id)
    payer = await run(billing.ledger.payments.payer, owner.id)
    _emit_payer(payer or Payer(owner.id, owner.part), as_json=as_json)


def refund_charge(
    *, charge: str, amount: str | None, key: str | None, data: Path | None, url: str | None, json: bool
) -> None:  # fmt: skip
    """Give a charge back to its consumer's balance."""
    money = dollars(amount, "nothing was refunded")
    with existing_ledger(data, url) as connection:
        returned = _refunded(connection, charge, money, key)
    facts = {"charge": charge, "refunded_micros": returned.micros, "refunded_usd": returned.usd}
    emit(facts, [f"{returned} of {charge} are in the balance again."], as_json=json)


def find_consumer(directory: Directory, wanted: str) -> Consumer:
    """The consumer with this id. Raises `NotFound`."""
    number = parse_id("con", wanted)
    found = next((each for each in directory.consumers() if each.id == number), None)
    if found is None:
        raise NotFound(f"no consumer {wanted}; payre keys list shows whose keys there are")
    return found


def _refunded(connection: Connection, charge: str, amount: Money | None, key: str | None) -> Money:
    """In the name of the developer who had got it."""
    row = connection.ledger.journal.find(parse_id("chg", charge))
    if row is None:
        raise NotFound("no such charge; nothing was refunded")
    gateway = connection.seller(Developer(row.developer_id, ""))
    name = key or format_id("ref", connection.ledger.ids.new())
    return anyio.run(partial(gateway.refund, charge, amount, idempotency_key=name))


def _emit_payer(payer: Payer, *, as_json: bool) -> None:
    consumer = format_id("con", payer.consumer_id)
    amounts = {"threshold": payer.threshold, "amount": payer.amount, "month_cap": payer.month_cap}
    money = {
        f"{name}_{unit}": value for name, each in amounts.items() for unit, value in (("micros", each.micros), ("usd", each.usd))
    }
    facts: dict[str, object] = {
        "consumer": consumer,
        "recharges": payer.recharges,
        "card": payer.card,
        "failures": payer.failures,
    }
    emit({**facts, **(money if payer.amount else {})}, [f"{consumer}: {_told(payer)}"], as_json=as_json)


def _told(payer: Payer) -> str:
    if not payer.amount:
        return "no card is charged by itself"
    rule = f"{payer.amount} when less than {payer.threshold} is available, at most {payer.month_cap} a month"
    if payer.recharges:
        return f"{payer.card} is charged {rule}"
    why = f"after {MOST_FAILURES} declines in a row" if payer.method_id else "because the card is gone"
    return f"off {why}; it was {rule}"
