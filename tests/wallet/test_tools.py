"""The wallet's tools over HTTP: what they say, to whom, and what they never say."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp_types import CallToolResult

from payre_mcp.ids import format_id
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.money import Money
from payre_mcp.receipts import KeyRing
from payre_mcp.testing import Sandbox
from payre_mcp.throttle import REFUSALS
from tests.fakes import Funded, fund
from tests.server.conftest import code_of, facts_of, text_of

TOOLS: dict[str, dict[str, Any]] = {
    "get_balance": {},
    "create_top_up_link": {"amount_usd": "10"},
    "get_top_up": {"top_up_id": format_id("top", 1)},
    "list_charges": {},
    "get_charge": {"charge_id": format_id("chg", 1)},
    "quote_price": {"name": "forecast"},
    "verify_receipt": {"receipt": "a.b.c"},
    "get_limits": {},
    "lower_limit": {"window": "day", "amount_usd": "1"},
    "get_spending": {},
    "list_servers": {},
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def stated(result: CallToolResult) -> dict[str, Any]:
    """The facts of an answer, each of which stands in its text too."""
    assert not result.is_error, text_of(result)
    facts, text = facts_of(result), text_of(result)
    for name, fact in flat(facts):
        if isinstance(fact, bool):
            assert ("valid receipt" in text.lower()) == (name == "valid")
        elif fact not in (None, "", []):
            assert re.search(rf"(?<![\w$]){re.escape(str(fact))}(?!\w)", text), f"{name} {fact!r} is not in {text!r}"
    return facts


def flat(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every fact by name, those of lists too; of a listed charge the receipt stands in its own answer."""
    single = [(name, fact) for name, fact in facts.items() if not isinstance(fact, list)]
    listed: list[dict[str, Any]] = [each for fact in facts.values() if isinstance(fact, list) for each in fact]  # pyright: ignore[reportUnknownVariableType]
    return single + [(name, fact) for each in listed for name, fact in each.items() if name != "receipt"]


@asynccontextmanager
async def wallet_of(box: Sandbox, key: str | None) -> AsyncGenerator[Client]:
    """The wallet for another key, or for none."""
    async with box.client(key=key, url=box.wallet_url) as client:
        yield client


def stranger(box: Sandbox) -> Funded:
    return fund(box.ledger.ledger, 2_000_000, name="bob")


# What it says.


async def test_no_tool_of_the_wallet_moves_money(wallet: Client) -> None:
    tools = {tool.name: tool for tool in (await wallet.list_tools()).tools}
    assert tools.keys() == TOOLS.keys()
    read_only = {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint}
    assert read_only == TOOLS.keys() - {"create_top_up_link", "lower_limit"}
    lowers = tools["lower_limit"].annotations
    assert lowers is not None
    assert (lowers.destructive_hint, lowers.idempotent_hint, lowers.open_world_hint) == (False, True, False)
    assert all(tool.output_schema and tool.description for tool in tools.values())


async def test_a_balance_is_exact(box: Sandbox, wallet: Client, receipts: list[str]) -> None:
    facts = stated(await wallet.call_tool("get_balance", {}))
    assert (facts["balance"], facts["balance_micros"]) == ("$4.98", 4_980_000)
    assert (facts["held"], facts["held_micros"]) == ("$0.00", 0)
    assert (facts["available"], facts["available_micros"]) == ("$4.98", 4_980_000)
    assert (facts["mode"], facts["consumer"]) == ("test", (await box.balance()).consumer)
    assert len(receipts) == 3


async def test_charges_are_listed_newest_first_and_page_by_page(wallet: Client, receipts: list[str]) -> None:
    whole = stated(await wallet.call_tool("list_charges", {}))
    first = stated(await wallet.call_tool("list_charges", {"limit": 2}))
    rest = stated(await wallet.call_tool("list_charges", {"limit": 2, "cursor": first["next_cursor"]}))
    assert [charge["name"] for charge in whole["charges"]] == ["forecast", "radar", "forecast"]
    assert [charge["amount_micros"] for charge in whole["charges"]] == [5_000, 10_000, 5_000]
    assert [charge["receipt"] for charge in whole["charges"]] == receipts[::-1]
    assert (first["charges"] + rest["charges"], rest["next_cursor"]) == (whole["charges"], None)
    assert whole["next_cursor"] is None


async def test_no_charges_are_said_to_be_none(wallet: Client) -> None:
    result = await wallet.call_tool("list_charges", {})
    assert (text_of(result), facts_of(result)) == ("No charges.", {"charges": [], "next_cursor": None})


async def test_one_charge_comes_with_its_receipt(wallet: Client, receipts: list[str]) -> None:
    (newest, *_) = facts_of(await wallet.call_tool("list_charges", {}))["charges"]
    facts = stated(await wallet.call_tool("get_charge", {"charge_id": newest["charge_id"]}))
    assert facts == newest
    assert (facts["receipt"], facts["server"], facts["kind"], facts["amount"]) == (receipts[-1], "weather", "tool", "$0.005")


async def test_a_genuine_receipt_is_valid_and_read_out(box: Sandbox, wallet: Client, receipts: list[str]) -> None:
    facts = stated(await wallet.call_tool("verify_receipt", {"receipt": receipts[1]}))
    assert (facts["valid"], facts["reason"], facts["name"]) == (True, None, "radar")
    assert (facts["amount"], facts["amount_micros"], facts["mode"]) == ("$0.01", 10_000, "test")
    assert facts["consumer"] == (await box.balance()).consumer


async def test_a_receipt_that_is_not_genuine_is_invalid_and_nothing_of_it_is_believed(
    box: Sandbox, wallet: Client, receipts: list[str]
) -> None:
    head, payload, signature = receipts[0].split(".")
    other_ring = KeyRing.generate().sign(box.ledger.ledger.ring.verify(receipts[0]))
    forged = {
        "altered": f"{head}.{payload[:-4]}AAAA.{signature}",
        "swapped": f"{head}.{receipts[1].split('.')[1]}.{signature}",
        "unsigned": f"{head}.{payload}.",
        "signed elsewhere": other_ring,
    }
    for kind, receipt in forged.items():
        facts = stated(await wallet.call_tool("verify_receipt", {"receipt": receipt}))
        assert (facts["valid"], facts["reason"]) == (False, "unknown"), kind
        assert {fact for name, fact in facts.items() if name not in ("valid", "reason")} == {None}
    for text in ("", "a receipt", "a.b", "x" * 20_000, "é.é.é"):
        facts = stated(await wallet.call_tool("verify_receipt", {"receipt": text}))
        assert (facts["valid"], facts["reason"]) == (False, "malformed")


# To whom.


async def test_without_a_key_no_tool_answers(box: Sandbox) -> None:
    async with wallet_of(box, None) as wallet:
        for tool, arguments in TOOLS.items():
            result = await wallet.call_tool(tool, arguments)
            assert code_of(result) == "unauthorized", tool
            assert "X-Payre-Key" in text_of(result)


async def test_a_key_that_is_none_or_not_a_consumers_is_refused_and_never_repeated(box: Sandbox) -> None:
    keys = {
        "pyr_ck_test_nonsense": "invalid_api_key",
        "${PAYRE_KEY}": "invalid_api_key",
        new_key(Role.CONSUMER, Mode.TEST).text: "invalid_api_key",
        new_key(Role.CONSUMER, Mode.LIVE).text: "forbidden",
        box.developer_key: "forbidden",
    }
    for number, (key, code) in enumerate(keys.items()):
        async with wallet_of(box, key) as wallet:
            for tool, arguments in list(TOOLS.items())[number:][:3]:  # fewer refusals than make an address wait
                result = await wallet.call_tool(tool, arguments)
                assert code_of(result) == code, tool
                assert key not in result.model_dump_json()


async def test_a_key_that_is_revoked_sees_nothing_from_then_on(box: Sandbox) -> None:
    bob = stranger(box)
    async with wallet_of(box, bob.key.text) as wallet:
        assert not (await wallet.call_tool("get_balance", {})).is_error
        box.ledger.ledger.directory.revoke_key(bob.record.id)
        for tool, arguments in TOOLS.items():
            assert code_of(await wallet.call_tool(tool, arguments)) == "invalid_api_key", tool


async def test_each_request_sees_the_account_of_its_own_key(box: Sandbox, wallet: Client) -> None:
    bob = stranger(box)
    async with wallet_of(box, bob.key.text) as other:
        theirs, ours = [facts_of(await client.call_tool("get_balance", {})) for client in (other, wallet)]
    assert (theirs["balance_micros"], ours["balance_micros"]) == (2_000_000, 5_000_000)
    assert theirs["consumer"] == format_id("con", bob.id)


async def test_another_accounts_charge_top_up_and_receipt_read_as_if_they_were_not(
    box: Sandbox, wallet: Client, receipts: list[str]
) -> None:
    charge = facts_of(await wallet.call_tool("list_charges", {}))["charges"][0]
    top_up = facts_of(await wallet.call_tool("create_top_up_link", {"amount_usd": 10}))
    async with wallet_of(box, stranger(box).key.text) as other:
        theirs = await other.call_tool("get_charge", {"charge_id": charge["charge_id"]})
        none = await other.call_tool("get_charge", TOOLS["get_charge"])
        assert (code_of(theirs), facts_of(theirs)) == ("not_found", facts_of(none))
        theirs = await other.call_tool("get_top_up", {"top_up_id": top_up["top_up_id"]})
        none = await other.call_tool("get_top_up", TOOLS["get_top_up"])
        assert (code_of(theirs), facts_of(theirs)) == ("not_found", facts_of(none))
        verified = facts_of(await other.call_tool("verify_receipt", {"receipt": receipts[0]}))
        assert (verified["valid"], verified["reason"], verified["consumer"]) == (False, "unknown", None)
        assert facts_of(await other.call_tool("list_charges", {}))["charges"] == []
        page = await other.call_tool("list_charges", {"cursor": charge["charge_id"]})
        assert facts_of(page)["charges"] == []


async def test_what_is_no_id_is_not_found(wallet: Client) -> None:
    for tool, argument in (("get_charge", "charge_id"), ("get_top_up", "top_up_id"), ("list_charges", "cursor")):
        for text in ("", "chg_", "chg_' or 1=1 --", format_id("hold", 1), "chg_zzzzzzzzzzzzz"):
            assert code_of(await wallet.call_tool(tool, {argument: text})) == "not_found", (tool, text)


# Top-ups.


async def test_a_top_up_link_names_account_and_amount_and_pays_once(box: Sandbox, wallet: Client) -> None:
    link = stated(await wallet.call_tool("create_top_up_link", {"amount_usd": "25.50"}))
    assert (link["amount"], link["amount_micros"], link["status"]) == ("$25.50", 25_500_000, "pending")
    async with httpx2.AsyncClient() as browser:
        page = await browser.get(link["url"])
        assert (await box.balance()).balance == Money.parse(5), "opening the page is not paying"
        pressed = [await browser.post(link["url"]) for _ in range(2)]
        after = await browser.get(link["url"])
    assert link["consumer"] in page.text
    assert "$25.50" in page.text
    assert [(answer.status_code, answer.headers["location"]) for answer in pressed] == [(303, httpx2.URL(link["url"]).path)] * 2
    assert "<form" in page.text
    assert "<form" not in after.text
    for answer in (page, *pressed, after):
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert facts_of(await wallet.call_tool("get_top_up", {"top_up_id": link["top_up_id"]}))["status"] == "completed"
    assert (await box.balance()).balance == Money.parse("30.50")


async def test_a_paid_top_up_states_every_fact_too(wallet: Client) -> None:
    link = facts_of(await wallet.call_tool("create_top_up_link", {"amount_usd": 5}))
    async with httpx2.AsyncClient() as browser:
        await browser.post(link["url"])
    stated(await wallet.call_tool("get_top_up", {"top_up_id": link["top_up_id"]}))


async def test_a_top_up_outside_its_range_is_refused(box: Sandbox, wallet: Client) -> None:
    for amount in ("4.99", 4.999999, "500.01", 0, -5, "ten", "10.0000001", "", 1e300):
        assert code_of(await wallet.call_tool("create_top_up_link", {"amount_usd": amount})) == "invalid_request", amount
    assert (await box.balance()).balance == Money.parse(5)


async def test_the_bounds_of_a_top_up_belong_to_it(wallet: Client) -> None:
    for amount, shown in (("5", "$5.00"), (500, "$500.00"), (5.5, "$5.50"), ("$10", "$10.00")):
        assert stated(await wallet.call_tool("create_top_up_link", {"amount_usd": amount}))["amount"] == shown


async def test_every_top_up_link_is_one_of_its_own(wallet: Client) -> None:
    links = [facts_of(await wallet.call_tool("create_top_up_link", {"amount_usd": 5})) for _ in range(2)]
    assert len({link["url"] for link in links}) == len({link["top_up_id"] for link in links}) == 2
    assert all(link["top_up_id"] not in link["url"] for link in links), "the id is no secret, the link is"


async def test_who_guesses_keys_is_told_to_wait_and_the_owner_goes_on(box: Sandbox, wallet: Client) -> None:
    stated(await wallet.call_tool("get_balance", {}))
    codes: list[str] = []
    for _ in range(REFUSALS + 1):
        async with wallet_of(box, new_key(Role.CONSUMER, Mode.TEST).text) as guesser:
            codes.append(code_of(await guesser.call_tool("get_balance", {})))
    assert codes == ["invalid_api_key"] * REFUSALS + ["rate_limited"]
    stated(await wallet.call_tool("get_balance", {}))


async def test_a_wallet_without_a_key_goes_on_saying_so(box: Sandbox) -> None:
    async with wallet_of(box, None) as keyless:
        codes = {code_of(await keyless.call_tool("get_balance", {})) for _ in range(REFUSALS + 1)}
    assert codes == {"unauthorized"}
