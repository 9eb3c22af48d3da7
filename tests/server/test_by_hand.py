"""Charging by hand: the shapes of Payre and AgentPay, within published prices, and bound to the call around it."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from payre_mcp import Money, PaidMCPServer, Payre, Price
from payre_mcp.errors import (
    Forbidden,
    IdempotencyConflict,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    PayreUnavailable,
    PriceMismatch,
    PriceSpecInvalid,
)
from payre_mcp.keys import Role
from tests.fakes import fund
from tests.server.conftest import Shop, code_of, meta_of, text_of


@pytest.fixture
def payre(shop: Shop) -> Payre:
    """Prices of a program that is no MCP server: nothing is metered, all is charged by hand."""
    prices = {"render": "0.05", "write": Price.per("tokens", 1, "0.001", max_units=100), "prompt:brief": "0.01"}
    return shop.payre(prices=prices, server_name="studio")


def key_of(shop: Shop) -> str:
    return shop.consumer.key.text


async def test_a_charge_is_made_at_once_and_has_a_receipt(shop: Shop, payre: Payre) -> None:
    charged = await payre.charge(key_of(shop), "render", "0.03")
    receipt = shop.connection.ledger.ring.verify(charged.receipt or "")
    assert (receipt.name, receipt.server, receipt.amount, receipt.charge_id) == (
        "render", "studio", Money.parse("0.03"), charged.charge_id,
    )  # fmt: skip
    assert (charged.amount, charged.replayed) == (Money.parse("0.03"), False)
    assert shop.journal() == ["CHARGE"]
    assert shop.spent() == 30_000


@pytest.mark.parametrize(("name", "most"), [("render", 50_000), ("write", 100_000), ("prompt:brief", 10_000)])
async def test_a_charge_stays_within_the_published_price_or_its_ceiling(shop: Shop, payre: Payre, name: str, most: int) -> None:
    with pytest.raises(PriceMismatch, match="Nothing was charged"):
        await payre.charge(key_of(shop), name, Money(most + 1))
    assert (await payre.charge(key_of(shop), name, Money(most))).amount == Money(most)
    assert shop.spent() == most


async def test_what_has_no_price_or_no_ceiling_cannot_be_charged_for(shop: Shop) -> None:
    payre = shop.payre(prices={"copy": Price.per("characters", 1, "0.001")})
    for name in ("paint", "copy"):
        with pytest.raises(PriceMismatch):
            await payre.charge(key_of(shop), name, "0.001")
    assert shop.journal() == []


async def test_nothing_can_be_charged_and_is_recorded(shop: Shop, payre: Payre) -> None:
    assert (await payre.charge(key_of(shop), "render", 0)).receipt
    assert shop.journal() == ["CHARGE"]
    assert shop.spent() == 0


@pytest.mark.parametrize("amount", ["-1", "0.0000001", "a lot", float("nan"), None])
async def test_an_amount_that_is_none_is_refused(shop: Shop, payre: Payre, amount: Any) -> None:
    with pytest.raises(InvalidRequest):
        await payre.charge(key_of(shop), "render", amount)
    assert shop.journal() == []


async def test_an_idempotency_key_charges_once_and_never_another_amount(shop: Shop, payre: Payre) -> None:
    first = await payre.charge(key_of(shop), "render", "0.03", idempotency_key="one")
    again = await payre.charge(key_of(shop), "render", "0.03", idempotency_key="one")
    assert (again.receipt, again.replayed) == (first.receipt, True)
    for name, amount in (("render", "0.04"), ("write", "0.03")):
        with pytest.raises(IdempotencyConflict):
            await payre.charge(key_of(shop), name, amount, idempotency_key="one")
    assert shop.spent() == 30_000


async def test_a_charge_that_cannot_be_raises(shop: Shop, payre: Payre) -> None:
    poor = fund(shop.connection.ledger, 1_000, name="poor")
    with pytest.raises(InsufficientBalance, match="Nothing ran and nothing was charged"):
        await payre.charge(poor.key.text, "render", "0.05")
    with pytest.raises(InvalidApiKey):
        await payre.charge("pyr_ck_test_wrong", "render", "0.05")
    assert shop.journal() == []


# AgentPay's shapes: results that are false when they failed.


async def test_a_key_is_valid_while_it_can_pay(shop: Shop, payre: Payre) -> None:
    directory = shop.connection.ledger.directory
    broke = fund(shop.connection.ledger, 0, name="broke").key.text
    secret = directory.create_key(Role.DEVELOPER, directory.sole_developer().id).text
    checks = [await payre.validate_key(key) for key in (key_of(shop), broke, "pyr_ck_test_wrong", secret)]
    assert [(bool(each), each.is_valid, each.invalid_reason) for each in checks] == [
        (True, True, None),
        (False, False, "insufficient_balance"),
        (False, False, "invalid_api_key"),
        (False, False, "forbidden"),
    ]
    with pytest.raises(ValueError, match="not an empty text"):
        await payre.validate_key("")


async def test_the_sample_that_tests_the_result_lets_no_invalid_key_pass(shop: Shop, payre: Payre) -> None:
    """AgentPay's own sample writes `if not client.validate_api_key(key)`, and its results were always true."""
    passed = [key for key in ("", "wrong", "pyr_ck_test_wrong") if key and await payre.validate_key(key)]
    assert passed == []


async def test_an_event_is_consumed_once(shop: Shop, payre: Payre) -> None:
    first = await payre.consume(key_of(shop), "0.02", "event-1", tool="render")
    again = await payre.consume(key_of(shop), "0.02", "event-1", tool="render")
    cents = await payre.consume(key_of(shop), usage_event_id="event-2", amount_cents=3, tool="render")
    assert all((first, again, cents))
    assert (first.error_code, first.remaining_balance_cents) == (None, None)
    assert again.charged is not None
    assert again.charged.replayed
    assert shop.spent() == 50_000


async def test_what_went_wrong_is_a_false_result_with_one_spelling_of_its_code(shop: Shop, payre: Payre) -> None:
    poor = fund(shop.connection.ledger, 1_000, name="poor").key.text
    await payre.consume(key_of(shop), "0.02", "event-1", tool="render")
    results = [
        await payre.consume(poor, "0.02", "event-9", tool="render"),
        await payre.consume("pyr_ck_test_wrong", "0.02", "event-9", tool="render"),
        await payre.consume(key_of(shop), "0.03", "event-1", tool="render"),
        await payre.consume(key_of(shop), "0.06", "event-2", tool="render"),
    ]
    assert not any(results)
    assert [each.error_code for each in results] == [
        "insufficient_balance", "invalid_api_key", "idempotency_conflict", "price_mismatch",
    ]  # fmt: skip
    assert all(each.error_message for each in results)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"key": "", "amount": "0.01", "usage_event_id": "e"}, "neither of them empty"),
        ({"amount": "0.01"}, "neither of them empty"),
        ({"usage_event_id": "e"}, "exactly one"),
        ({"amount": "0.01", "amount_cents": 1, "usage_event_id": "e"}, "exactly one"),
        ({"amount_cents": 1.5, "usage_event_id": "e"}, "whole number of cents"),
        ({"amount_cents": -1, "usage_event_id": "e"}, "whole number of cents"),
        ({"amount": "0.01", "usage_event_id": "e"}, "this server has 3 prices"),
    ],
)
async def test_a_call_that_is_wrong_in_itself_is_the_programs_mistake(
    shop: Shop, payre: Payre, arguments: dict[str, Any], complaint: str
) -> None:
    act: Any = payre.consume
    with pytest.raises(ValueError, match=complaint):
        await act(**({"key": key_of(shop)} | arguments))


async def test_without_a_name_the_only_price_is_meant(shop: Shop) -> None:
    assert await shop.payre(prices={"render": "0.05"}).consume(key_of(shop), "0.01", "event")
    assert shop.spent() == 10_000


async def test_a_ledger_that_cannot_be_reached_is_raised_by_all_three(shop: Shop, payre: Payre) -> None:
    await payre.ready()
    shop.connection.close()
    for act in (payre.charge(key_of(shop), "render", "0.01"), payre.consume(key_of(shop), "0.01", "e", tool="render")):
        with pytest.raises(PayreUnavailable):
            await act


async def test_a_key_of_another_server_is_forbidden(shop: Shop, payre: Payre) -> None:
    other = shop.payre(prices={"render": "0.05"}, server_name="other")
    await other.ready()
    directory = shop.connection.ledger.directory
    server = directory.ensure_server(directory.sole_developer().id, "other")
    bound = directory.create_key(Role.CONSUMER, shop.consumer.id, server_id=server.id).text
    with pytest.raises(Forbidden):
        await payre.charge(bound, "render", "0.01")
    assert (await payre.validate_key(bound)).invalid_reason == "forbidden"
    assert await other.validate_key(bound)


# Inside a call.


def by_hand(shop: Shop, charge: Callable[[Payre, str], Any], *, price: str | None = None) -> PaidMCPServer:
    """A server whose tool charges by hand and then answers, fails or asks as its argument says."""
    payre = shop.payre()
    server = PaidMCPServer("shop", payre=payre)

    @server.tool(price="0.05")
    async def extra() -> str:  # pyright: ignore[reportUnusedFunction]
        return "extra"

    @server.tool(price=price)
    async def work(city: str, ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction]
        await charge(payre, Payre.key_of(ctx) or "")
        if city == "nowhere":
            raise ToolError("no such place")
        return city

    return server


async def test_inside_a_free_call_a_charge_is_held_and_captured_when_it_succeeds(shop: Shop, mode: Any) -> None:
    seen: list[Any] = []

    async def charge(payre: Payre, key: str) -> None:
        seen.append(await payre.charge(key, "extra", "0.02"))
        seen.append(shop.journal())

    async with Client(by_hand(shop, charge), mode=mode) as client:
        result = await shop.call(client, "work")
    assert (seen[0].amount, seen[0].charge_id, seen[1]) == (Money.parse("0.02"), None, ["HOLD"])
    assert shop.receipt(result).amount == Money.parse("0.02")
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert shop.spent() == 20_000


@pytest.mark.parametrize("price", [None, "0.005"])
async def test_inside_a_call_that_fails_a_charge_by_hand_is_given_back(shop: Shop, mode: Any, price: str | None) -> None:
    async with Client(by_hand(shop, lambda payre, key: payre.charge(key, "extra", "0.02"), price=price), mode=mode) as client:
        assert (await shop.call(client, "work", "nowhere")).is_error
    assert set(shop.journal()) == {"HOLD", "VOID"}
    assert shop.spent() == 0


async def test_inside_a_paid_call_it_comes_on_top_and_the_call_keeps_its_own_receipt(shop: Shop, mode: Any) -> None:
    async with Client(by_hand(shop, lambda payre, key: payre.charge(key, "extra", "0.02"), price="0.005"), mode=mode) as client:
        result = await shop.call(client, "work")
    receipts = [shop.connection.ledger.ring.verify(each).name for each in meta_of(result)["dev.payre/receipts"]]
    assert (shop.receipt(result).name, receipts) == ("work", ["work", "extra"])
    assert shop.spent() == 25_000


async def test_several_charges_of_one_call_are_each_captured(shop: Shop, mode: Any) -> None:
    async def twice(payre: Payre, key: str) -> None:
        await payre.charge(key, "extra", "0.02")
        assert await payre.consume(key, "0.01", "event", tool="extra")

    async with Client(by_hand(shop, twice), mode=mode) as client:
        await shop.call(client, "work")
    assert shop.journal() == ["HOLD", "HOLD", "CAPTURE", "CAPTURE"]
    assert shop.spent() == 30_000


async def test_a_short_balance_raises_inside_the_call_before_the_work_is_done(shop: Shop, mode: Any) -> None:
    poor = fund(shop.connection.ledger, 1_000, name="poor").key.text
    async with Client(by_hand(shop, lambda payre, key: payre.charge(key, "extra", "0.02")), mode=mode) as client:
        short = await shop.call(client, "work", key=poor)
        keyless = await shop.call(client, "work", key=None)
    assert (code_of(short), code_of(keyless)) == ("insufficient_balance", "payment_required")
    assert "$0.001 is available" in text_of(short)
    assert shop.journal() == []


async def test_a_tool_that_takes_a_refused_charge_as_an_answer_goes_on(shop: Shop, mode: Any) -> None:
    async def try_it(payre: Payre, key: str) -> None:
        assert not await payre.consume(key, "0.06", "event", tool="extra")

    async with Client(by_hand(shop, try_it), mode=mode) as client:
        assert text_of(await shop.call(client, "work")) == "Oslo"
        assert code_of(await shop.call(client, "work", "nowhere")) == ""
    assert shop.journal() == []


async def test_a_price_by_hand_is_advertised_as_a_bound_and_charges_no_call(shop: Shop, mode: Any) -> None:
    payre = shop.payre()
    payre.pricing({"render": "0.05", "frame": "0.001"}, by_hand=True)
    server = PaidMCPServer("studio", payre=payre)

    @server.tool()
    async def render(ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction]
        """Render."""
        await payre.charge(payre.key_of(ctx), "render", "0.02")
        await payre.charge(payre.key_of(ctx), "frame", "0.001")
        return "done"

    async with Client(server, mode=mode) as client:
        (listed,) = (await client.list_tools()).tools
        await client.call_tool("render", {}, meta=shop.meta())
    assert listed.description == "Render. Charges up to $0.05 as it runs."
    card = (listed.meta or {})["dev.payre/price"]
    assert (card["by_hand"], card["max_micros"]) == (True, 50_000)
    assert shop.spent() == 21_000


def test_a_price_is_said_once_by_hand_or_not(shop: Shop) -> None:
    payre = shop.payre(prices={"render": "0.05"})
    with pytest.raises(PriceSpecInvalid, match="has a price already"):
        payre.pricing({"render": "0.01"}, by_hand=True)


async def test_a_cancelled_call_gives_its_charges_by_hand_back(shop: Shop, mode: Any) -> None:
    charged = anyio.Event()

    async def charge_and_hang(payre: Payre, key: str) -> None:
        await payre.charge(key, "extra", "0.02")
        charged.set()
        await anyio.sleep_forever()

    async with Client(by_hand(shop, charge_and_hang), mode=mode) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shop.call, client, "work")
            await charged.wait()
            tasks.cancel_scope.cancel()
        while shop.journal() != ["HOLD", "VOID"]:
            await anyio.lowlevel.checkpoint()
    assert shop.spent() == 0


async def test_on_a_server_that_is_not_metered_a_tool_charges_by_hand_at_once(shop: Shop, payre: Payre, mode: Any) -> None:
    """Payre's own way: the tool asks for the money itself."""
    server = MCPServer("plain")

    @server.tool()
    async def render(ctx: Context) -> str:  # pyright: ignore[reportUnusedFunction]
        charged = await payre.charge(payre.key_of(ctx) or "", "render", "0.05")
        return charged.receipt or ""

    async with Client(server, mode=mode) as client:
        result = await client.call_tool("render", {}, meta=shop.meta())
    assert shop.connection.ledger.ring.verify(text_of(result)).amount == Money.parse("0.05")
    assert "dev.payre/receipt" not in meta_of(result)
    assert shop.spent() == 50_000
