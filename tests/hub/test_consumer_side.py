"""What a consumer may ask of the hub: money of their own, links to add some, receipts."""

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import open_ledger
from payre_mcp.keys import Mode
from payre_mcp.storage.embedded import open_embedded
from tests.fakes import fund
from tests.hub.conftest import Hub, hold_of, make_hub, publish


async def test_a_balance_says_what_is_held_and_what_is_left(hub: Hub) -> None:
    async with hub.client() as client, hub.client("", **{"X-Payre-Key": hub.ada.key.text}) as consumer:
        versions = await publish(client)
        await client.post("/v1/holds", json=hold_of(hub, versions["forecast"]))
        balance = (await consumer.get("/v1/balance")).json()
    assert (balance["balance_usd"], balance["held_usd"], balance["available_usd"]) == ("1.00", "0.005", "0.995")
    assert (balance["available_micros"], balance["mode"]) == (995_000, "test")


async def test_a_checkout_is_a_link_to_a_page_where_a_person_pays(hub: Hub) -> None:
    async with hub.client(hub.ada.key.text) as consumer:
        asked = (await consumer.post("/v1/checkout", json={"amount": "10"})).json()
        assert (await consumer.get(f"/v1/top-ups/{asked['top_up_id']}")).json()["status"] == "pending"
        paid = await consumer.post(asked["session_url"])
        after = (await consumer.get(f"/v1/top-ups/{asked['top_up_id']}")).json()
        (listed,) = (await consumer.get("/v1/top-ups")).json()["top_ups"]
    assert paid.status_code == 303
    assert (after["status"], after["amount_usd"]) == ("completed", "10.00")
    assert listed == after
    assert hub.ada.account().balance_micros == 11_000_000


async def test_without_a_page_there_is_no_checkout(hub: Hub) -> None:
    hub.connection.top_ups.page = None
    async with hub.client(hub.ada.key.text) as consumer:
        answer = await consumer.post("/v1/checkout", json={"amount": 10})
    assert answer.json()["error"] == "invalid_request"


@pytest.mark.parametrize("amount", [4.99, 500.01, 0, -5, "many", "0.0000001", 1e400, 10**400, "1e999"])
async def test_a_checkout_is_five_to_five_hundred_dollars(hub: Hub, amount: object) -> None:
    async with hub.client(hub.ada.key.text) as consumer:
        body = f'{{"amount": {amount if not isinstance(amount, str) else chr(34) + amount + chr(34)}}}'.replace("inf", "1e400")
        answer = await consumer.post("/v1/checkout", content=body)
        listed = (await consumer.get("/v1/top-ups")).json()["top_ups"]
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert listed == []


async def test_a_test_key_credits_test_money_at_once(hub: Hub) -> None:
    async with hub.client(hub.ada.key.text) as consumer:
        answer = (await consumer.post("/v1/top-up", json={"amount": 5})).json()
        nothing = await consumer.post("/v1/top-up", json={"amount": 0})
        missing = await consumer.post("/v1/top-up")
    assert (answer["status"], answer["amount_usd"], answer["balance_usd"]) == ("completed", "5.00", "6.00")
    assert (nothing.status_code, missing.status_code) == (400, 400)
    hub.audited()


async def test_a_live_key_never_credits_itself(hub: Hub) -> None:
    """D32. The ledger's mode decides which keys are let in, so a live one never meets this ledger."""
    live = hub.ada.key.text.replace("_test_", "_live_")
    async with hub.client(live) as consumer:
        damaged = await consumer.post("/v1/top-up", json={"amount": 5})
    assert damaged.status_code == 401
    assert hub.ada.account().balance_micros == 1_000_000


async def test_a_receipt_is_genuine_for_its_two_parties_and_unknown_to_all_others(hub: Hub) -> None:
    eve = fund(hub.connection.ledger, 0, name="eve")
    async with hub.client() as ann:
        await publish(ann)
        asked = {"api_key": hub.ada.key.text, "tool": "forecast", "amount": "0.005"}
        receipt = (await ann.post("/v1/charges", json=asked)).json()["receipt"]
        answers = {}
        for who, key in {"ann": hub.ann.key, "ada": hub.ada.key.text, "bob": hub.bob.key, "eve": eve.key.text}.items():
            async with hub.client(key) as client:
                answers[who] = (await client.post("/v1/receipts/verify", json={"receipt": receipt})).json()
        forged = (await ann.post("/v1/receipts/verify", json={"receipt": receipt[:-4] + "AAAA"})).json()
        garbage = (await ann.post("/v1/receipts/verify", json={"receipt": "no receipt"})).json()
    assert answers["ann"] == answers["ada"]
    assert answers["ann"]["valid"]
    assert answers["ann"]["facts"]["amount_usd"] == "0.005"
    assert answers["bob"] == answers["eve"] == forged == {"valid": False, "reason": "unknown", "facts": None}
    assert garbage == {"valid": False, "reason": "malformed", "facts": None}


async def test_live_money_comes_by_checkout_alone(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> None:
    folder = tmp_path_factory.mktemp("live")
    open_embedded(folder / "payre.db", ManualClock(), mode=Mode.LIVE).close()
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}", clock=hub.clock)
    try:
        live = make_hub(connection, hub.clock, fund(connection.ledger, 1_000_000))
        async with live.client(live.ada.key.text) as consumer:
            answer = await consumer.post("/v1/top-up", json={"amount": 5})
            link = await consumer.post("/v1/checkout", json={"amount": 5})
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
        assert link.status_code == 200
        assert live.ada.account().balance_micros == 1_000_000
    finally:
        connection.close()
