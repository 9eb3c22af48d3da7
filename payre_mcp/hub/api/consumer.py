"""What a consumer asks of the hub: balance, charges, top-ups, and whether a receipt is genuine."""

import json
from functools import partial

import anyio.to_thread

from payre_mcp.errors import Forbidden, InvalidRequest, ReceiptInvalid
from payre_mcp.hub.api.call import Call, Nothing
from payre_mcp.hub.api.facts import (
    AmountRequest,
    BalanceAnswer,
    ChargesPage,
    CheckoutAnswer,
    ConsumerCharge,
    CreditAnswer,
    Page,
    ReceiptAnswer,
    ReceiptFacts,
    ReceiptRequest,
    TopUpAnswer,
    TopUpsAnswer,
    UsageAnswer,
)
from payre_mcp.hub.api.paging import cursor_id, filtered
from payre_mcp.hub.api.reading import required_amount
from payre_mcp.ids import format_id
from payre_mcp.keys import Mode, Role
from payre_mcp.ledger.model import Transfer


async def get_balance(call: Call[Nothing]) -> BalanceAnswer:
    """A consumer's own balance, what is held of it for running calls, and what is available."""
    return BalanceAnswer.of(await call.desk.connection.wallet.get_balance(call.key))


async def list_usage(call: Call[ChargesPage]) -> UsageAnswer:
    """A consumer's own charges with their receipts, newest first."""
    return await anyio.to_thread.run_sync(_usage, call)


async def checkout(call: Call[AmountRequest]) -> CheckoutAnswer:
    """Ask for a top-up, of $5 to $500 unless the operator set another range. Moves no money: a person pays at `session_url`."""
    amount = required_amount(call.asked.amount, call.asked.amount_micros)
    top_up = await call.desk.connection.top_ups.create(call.caller.owner_id, amount)
    if top_up.url is None:
        raise InvalidRequest("this ledger has no page where a top-up could be paid; nothing was charged")
    return CheckoutAnswer(session_url=top_up.url, top_up_id=top_up.id)


async def list_top_ups(call: Call[Page]) -> TopUpsAnswer:
    """A consumer's own top-ups, newest first."""
    asked, before = call.asked, cursor_id("top", call.asked.cursor)
    found = await call.desk.connection.top_ups.list(call.caller.owner_id, before=before, limit=asked.limit + 1)
    shown = [TopUpAnswer.of(top_up) for top_up in found[: asked.limit]]
    return TopUpsAnswer(top_ups=shown, next_cursor=shown[-1].top_up_id if len(found) > asked.limit else None)


async def get_top_up(call: Call[Nothing]) -> TopUpAnswer:
    """Whether a top-up was paid."""
    return TopUpAnswer.of(await call.desk.connection.top_ups.get(call.caller.owner_id, call.path["top_up"]))


async def credit(call: Call[AmountRequest]) -> CreditAnswer:
    """Credit test money at once. A live key gets 403: live money comes by `POST /v1/checkout`."""
    if call.caller.mode != Mode.TEST:
        raise Forbidden("a live key cannot credit itself; POST /v1/checkout makes a link to pay. Nothing was credited")
    amount = required_amount(call.asked.amount, call.asked.amount_micros)
    connection = call.desk.connection
    top_up = await connection.top_ups.credit_test_money(call.caller.owner_id, amount)
    balance = (await connection.wallet.get_balance(call.key)).balance
    return CreditAnswer(
        top_up_id=top_up.id, status=top_up.status, amount_micros=amount.micros, amount_usd=amount.usd,
        balance_micros=balance.micros, balance_usd=balance.usd,
    )  # fmt: skip


async def verify_receipt(call: Call[ReceiptRequest]) -> ReceiptAnswer:
    """Whether this ledger signed a receipt for whoever asks, who paid it or earned it. A forged one is no error."""
    try:
        receipt = call.desk.statements.verify(call.asked.receipt)
    except ReceiptInvalid as error:
        return ReceiptAnswer(valid=False, reason="malformed" if error.reason == "malformed" else "unknown", facts=None)
    prefix, party = ("dev", receipt.developer) if call.caller.role == Role.DEVELOPER else ("con", receipt.consumer)
    if party != format_id(prefix, call.caller.owner_id):
        return ReceiptAnswer(valid=False, reason="unknown", facts=None)
    return ReceiptAnswer(valid=True, reason=None, facts=ReceiptFacts.of(receipt))


def _usage(call: Call[ChargesPage]) -> UsageAnswer:
    journal, record = call.desk.connection.ledger.journal, call.caller
    read = partial(journal.charges, record.part, record.owner_id)
    rows, rest = filtered(lambda before, limit: read(before=before, limit=limit), call.asked, _server_of)
    charges = [ConsumerCharge.of(row, call.desk.statements) for row in rows]
    return UsageAnswer(charges=charges, next_cursor=format_id("chg", rest) if rest else None)


def _server_of(row: Transfer) -> str:
    return json.loads(row.detail)["server"]
