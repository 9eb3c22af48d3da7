"""The same hub over PostgreSQL, and two processes of it over one database."""

import pytest

from tests.hub.conftest import Hub, again, hold_of, named, publish


@pytest.fixture
def anyio_backend() -> str:
    """One is enough where a database is what differs."""
    return "asyncio"


@pytest.fixture
def ledger_url(database: str) -> str:
    """A ledger on PostgreSQL."""
    return database


async def test_holds_of_one_process_are_ended_by_another(hub: Hub) -> None:
    async with hub.client() as first, again(hub).client() as second:
        assert (await second.get("/readyz")).json() == {"status": "ready"}
        versions = await publish(first)
        acts = [{"id": f"{n}", "act": "hold", "body": hold_of(hub, versions["forecast"])} for n in range(10)]
        holds = [answer["body"] for answer in (await first.post("/v1/batch", json={"requests": acts})).json()["answers"]]
        ends = [
            {"id": f"{n}", "act": "capture" if n % 2 else "void", "body": {"token": hold["token"]}}
            for n, hold in enumerate(holds)
        ]
        ended = [(await second.post("/v1/batch", json={"requests": ends})).json()["answers"] for _ in range(2)]
        charge = ended[0][1]["body"]["charge_id"]
        refund = await second.post(f"/v1/charges/{charge}/refund", headers=named("r"))
        keys = (await second.get("/v1/keys")).json()["keys"]
    assert {answer["status"] for answers in ended for answer in answers} == {200}
    assert refund.json()["refunded_micros"] == 5000
    assert [key["label"] for key in keys] == ["ann"]
    assert hub.ada.account()[1:3] == (980_000, 0)
    hub.audited()


async def test_a_consumer_reads_and_adds_money(hub: Hub) -> None:
    async with hub.client(hub.ada.key.text) as consumer:
        asked = (await consumer.post("/v1/checkout", json={"amount": 5})).json()
        await consumer.post(asked["session_url"])
        assert (await consumer.get("/v1/balance")).json()["balance_usd"] == "6.00"
        (listed,) = (await consumer.get("/v1/top-ups")).json()["top_ups"]
    assert (listed["top_up_id"], listed["status"]) == (asked["top_up_id"], "completed")
