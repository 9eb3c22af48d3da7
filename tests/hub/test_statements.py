"""What a hub tells of the past: prices with what they earned, charges, usage, earnings; in pages, and only one's own."""

from functools import partial
from typing import Any

import anyio
import httpx2
import pytest

import payre_mcp.hub.api.paging
from payre_mcp.clock import US_PER_S
from payre_mcp.gateway.base import CallOutcome, CallRequest
from payre_mcp.gateway.local import _detail  # pyright: ignore[reportPrivateUsage]
from payre_mcp.gateway.statement import origin_of
from payre_mcp.ids import format_id
from payre_mcp.money import Money
from payre_mcp.payments import Payment, PaymentKind, PaymentState
from payre_mcp.pricing import Target
from tests.both_databases import ledger_url
from tests.fakes import fund
from tests.hub.conftest import DIGEST, Hub, named, publish

__all__ = ["ledger_url"]


@pytest.fixture
def anyio_backend() -> str:
    """One is enough where a database is what differs."""
    return "asyncio"


async def charge(client: httpx2.AsyncClient, key: str, tool: str = "forecast", amount: str = "0.005", **fields: Any) -> str:
    """Charge, and answer the charge's id."""
    answer = await client.post("/v1/charges", json={"api_key": key, "tool": tool, "amount": amount, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["charge_id"]


async def every(client: httpx2.AsyncClient, path: str, of: str, **query: Any) -> list[dict[str, Any]]:
    """Everything of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = (await client.get(path, params={**query, **({"cursor": cursor} if cursor else {})})).json()
        found += page[of]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_a_published_price_can_be_charged_at_once_and_is_listed_with_what_it_earned(hub: Hub) -> None:
    async with hub.client() as client:
        published = await client.post("/v1/tools", json={"name": "forecast", "description": "The weather", "price": 0.005})
        assert published.json()["price"] == "Costs $0.005 per call."
        first = await charge(client, hub.ada.key.text)
        await charge(client, hub.ada.key.text)
        await client.post(f"/v1/charges/{first}/refund", headers=named("r"))
        (tool,) = (await client.get("/v1/tools")).json()["tools"]
    assert (tool["server"], tool["kind"], tool["name"], tool["version"]) == (
        "default", "tool", "forecast", published.json()["version"],
    )  # fmt: skip
    assert (tool["total_charges"], tool["gross_usd"], tool["refunded_usd"]) == (2, "0.01", "0.005")
    assert (tool["fee_micros"], tool["net_micros"]) == (150, 4850)


async def test_one_price_takes_the_place_of_its_own_and_leaves_the_others(hub: Hub) -> None:
    async with hub.client() as client:
        await publish(client, forecast="0.005", radar="0.01")
        for price in ("0.02", "0.03", "0.02"):
            await client.post("/v1/tools", json={"name": "radar", "price": price, "server": "weather"})
        tools = (await client.get("/v1/tools", params={"server": "weather"})).json()["tools"]
        assert {tool["name"]: tool["price"] for tool in tools} == {
            "forecast": "Costs $0.005 per call.", "radar": "Costs $0.02 per call.",
        }  # fmt: skip
        await publish(client, hail="0.01")
        assert [tool["name"] for tool in (await client.get("/v1/tools")).json()["tools"]] == ["hail"]


async def test_prices_that_are_published_at_once_all_stay(hub: Hub) -> None:
    names = [f"tool-{n}" for n in range(8)]
    async with hub.client() as client:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(partial(client.post, "/v1/tools", json={"name": name, "price": "0.01"}))
        tools = (await client.get("/v1/tools")).json()["tools"]
    assert [tool["name"] for tool in tools] == names


async def test_a_wrong_price_is_refused_with_everything_that_is_wrong(hub: Hub) -> None:
    async with hub.client() as client:
        prices: list[dict[str, Any]] = [
            {"name": "a", "spec": "-1"},
            {"name": "b", "spec": {"dimension": []}},
            {"name": "c", "spec": "0.01"},
        ]
        answer = await client.put("/v1/servers/weather/prices", json={"prices": prices})
        single = await client.post("/v1/tools", json={"name": "a", "price": "0.0000001"})
        twice = await client.put("/v1/servers/weather/prices", json={"prices": [prices[2], prices[2]]})
        tools = (await client.get("/v1/tools")).json()["tools"]
    assert (answer.status_code, answer.json()["error"]) == (422, "price_spec_invalid")
    assert {problem["path"].split(".")[0] for problem in answer.json()["problems"]} == {"a", "b"}
    assert single.json()["problems"][0]["code"] == "price_inexact"
    assert twice.status_code == 400
    assert tools == []


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_lists_are_whole_and_in_order_in_pages_of_any_size(hub: Hub, size: int) -> None:
    async with hub.client() as client, hub.client(hub.ada.key.text) as consumer:
        await publish(client, **{f"tool-{n}": "0.001" for n in range(5)})
        made = [await charge(client, hub.ada.key.text, f"tool-{n}", "0.001") for n in range(5)]
        asked = [(await consumer.post("/v1/checkout", json={"amount": 5 + n})).json()["top_up_id"] for n in range(5)]
        charges = await every(client, "/v1/charges", "charges", limit=size)
        usage = await every(consumer, "/v1/usage", "charges", limit=size)
        tools = await every(client, "/v1/tools", "tools", limit=size)
        top_ups = await every(consumer, "/v1/top-ups", "top_ups", limit=size)
    assert [each["charge_id"] for each in charges] == [each["charge_id"] for each in usage] == made[::-1]
    assert [each["name"] for each in tools] == [f"tool-{n}" for n in range(5)]
    assert [each["top_up_id"] for each in top_ups] == asked[::-1]


async def test_charges_are_found_by_time_server_and_tool(hub: Hub) -> None:
    async with hub.client() as client, hub.client(hub.ada.key.text) as consumer:
        made: dict[str, str] = {}
        for server in ("weather", "maps"):
            await publish(client, server, forecast="0.005", radar="0.005")
            for tool in ("forecast", "radar"):
                made[f"{server} {tool}"] = await charge(client, hub.ada.key.text, tool, server=server)
                hub.clock.advance(3600)
        start = hub.clock.now_us() - 4 * 3600 * US_PER_S
        wanted: dict[str, dict[str, Any]] = {
            "weather forecast,weather radar": {"server": "weather"},
            "weather radar,maps radar": {"tool": "radar"},
            "maps radar": {"tool": "radar", "server": "maps"},
            "weather radar,maps forecast": {"since": start + 1800 * US_PER_S, "until": start + 9000 * US_PER_S},
            "": {"server": "WEATHER"},
        }
        for names, query in wanted.items():
            ids = [made[name] for name in names.split(",") if name][::-1]
            for reader, path in ((client, "/v1/charges"), (consumer, "/v1/usage")):
                found = await every(reader, path, "charges", limit=1, **query)
                assert [each["charge_id"] for each in found] == ids, (path, query)


async def test_a_page_reads_so_far_and_no_further(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody filters for is passed over a bounded number at a time, so that no request reads a whole history."""
    monkeypatch.setattr(payre_mcp.hub.api.paging, "_AT_ONCE", 2)
    monkeypatch.setattr(payre_mcp.hub.api.paging, "_MOST_READ", 4)
    async with hub.client() as client, hub.client(hub.ada.key.text) as consumer:
        await publish(client, forecast="0.005", radar="0.005")
        wanted = await charge(client, hub.ada.key.text, "radar")
        for _ in range(5):
            await charge(client, hub.ada.key.text)
        first = (await consumer.get("/v1/usage", params={"tool": "radar"})).json()
        found = await every(consumer, "/v1/usage", "charges", tool="radar")
    assert first["charges"] == []
    assert first["next_cursor"]
    assert [each["charge_id"] for each in found] == [wanted]


async def test_a_charge_is_told_to_each_side_as_it_concerns_them(hub: Hub) -> None:
    async with hub.client() as client, hub.client(hub.ada.key.text) as consumer:
        await publish(client)
        await charge(client, hub.ada.key.text)
        (sold,) = (await client.get("/v1/charges")).json()["charges"]
        (bought,) = (await consumer.get("/v1/usage")).json()["charges"]
    assert (sold["fee_micros"], sold["net_micros"]) == (150, 4850)
    assert sold["consumer"].startswith("con_")
    assert bought["developer"].startswith("dev_")
    assert not {"fee_micros", "net_micros"} & bought.keys()
    assert sold["receipt"] == bought["receipt"]


async def test_nobody_sees_the_charges_of_others(hub: Hub) -> None:
    """Threat T27."""
    eve = fund(hub.connection.ledger, 1_000_000, name="eve")
    async with hub.client() as ann, hub.client(hub.bob.key) as bob, hub.client(eve.key.text) as other:
        await publish(ann)
        made = await charge(ann, hub.ada.key.text)
        top_up = await hub.connection.top_ups.create(hub.ada.id, Money.parse(5))
        for client, path in ((bob, "/v1/charges"), (other, "/v1/usage"), (bob, "/v1/tools"), (other, "/v1/top-ups")):
            page = (await client.get(path)).json()
            assert [*page.values()] == [[], None], path
            from_theirs = await client.get(path, params={"cursor": made})
            assert from_theirs.status_code in {200, 400}
            assert made not in from_theirs.text
        theirs = await other.get(f"/v1/top-ups/{top_up.id}")
        nobodys = await other.get("/v1/top-ups/top_0000000000000")
        assert (theirs.status_code, theirs.json()) == (404, nobodys.json())
        earned = (await bob.get("/v1/earnings")).json()
    assert (earned["total"]["gross_micros"], earned["by_tool"]) == (0, [])


async def test_earnings_are_gross_refunded_fee_and_net_by_tool_and_today(hub: Hub) -> None:
    async with hub.client() as client:
        for server in ("weather", "maps"):
            await publish(client, server, forecast="0.01", radar="0.02")
        first = await charge(client, hub.ada.key.text, amount="0.01", server="weather")
        await charge(client, hub.ada.key.text, "radar", "0.02", server="maps")
        hub.clock.advance(24 * 3600)
        await charge(client, hub.ada.key.text, amount="0.005", server="weather")
        await client.post(f"/v1/charges/{first}/refund", json={"amount": "0.004"}, headers=named("r"))
        earned = (await client.get("/v1/earnings")).json()
    total, today = earned["total"], earned["today"]
    assert (total["charges"], total["gross_micros"], total["refunded_micros"]) == (3, 35_000, 4_000)
    assert (total["fee_micros"], total["net_micros"]) == (300 + 600 + 150 - 120, 35_000 - 4_000 - 930)
    assert (today["charges"], today["gross_micros"], today["refunded_micros"]) == (1, 5_000, 4_000)
    assert [(each["server"], each["tool"], each["gross_micros"]) for each in earned["by_tool"]] == [
        ("maps", "radar", 20_000), ("weather", "forecast", 15_000),
    ]  # fmt: skip
    audit = hub.connection.audit()
    assert (audit.earned_micros, audit.fees_micros) == (total["net_micros"], total["fee_micros"])


async def test_a_developer_sees_their_own_payouts_in_pages(hub: Hub) -> None:
    payments, mine, theirs = hub.connection.ledger.payments, hub.ann.id, hub.bob.id
    for number, owner in ((1, mine), (2, theirs), (3, mine)):
        state = PaymentState.SUCCEEDED
        assert payments.add(
            Payment(number, PaymentKind.PAYOUT, state, owner, 0, 0, Money.parse(10 + number), Money(0), "", "", "", "[]", 5, 5)
        )
    async with hub.client() as client:
        first = (await client.get("/v1/payouts", params={"limit": 1})).json()
        assert [(each["payout_id"], each["amount_usd"], each["status"]) for each in first["payouts"]] == [
            (format_id("pay", 3), "13.00", "succeeded")
        ]
        rest = (await client.get("/v1/payouts", params={"cursor": first["next_cursor"]})).json()
        assert ([each["payout_id"] for each in rest["payouts"]], rest["next_cursor"]) == ([format_id("pay", 1)], None)


@pytest.mark.parametrize("server", ["weather", 'a "quoted" \\ name', "Wetter für alle", "100% _"])
def test_the_details_of_a_servers_charges_begin_as_they_are_searched(server: str) -> None:
    request = CallRequest(
        api_key=None, server=server, target=Target("resource", "x://y"), price_version=DIGEST, args_sha256=DIGEST
    )
    detail = _detail(request, CallOutcome())
    assert detail.startswith(origin_of(server))
    assert detail[len(origin_of(server))] == "r"
