"""What a load balancer and an operator ask a hub."""

from typing import Any

import pytest

import payre_mcp.hub.metrics
from payre_mcp.connection import Connection
from payre_mcp.storage.library import connect
from payre_mcp.storage.migrate import VERSION_TABLE
from tests.fakes import file_of
from tests.hub.conftest import Hub, again, hold_of, publish


async def test_a_hub_that_can_charge_is_ready(hub: Hub) -> None:
    async with hub.client("") as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert (await client.get("/version")).json()["name"] == "payre-mcp"


async def test_a_database_of_another_version_is_not_ready(hub: Hub, connection: Connection) -> None:
    file = connect(file_of(connection.ledger))
    file.execute(f"update {VERSION_TABLE} set version_num = '9999'")
    file.close()
    async with hub.client("") as client:
        answer = await client.get("/readyz")
        assert (await client.get("/healthz")).status_code == 200
    assert (answer.status_code, answer.json()["error"]) == (503, "payre_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_a_ledger_whose_writer_has_stopped_is_not_ready(hub: Hub) -> None:
    async with hub.client("") as client:
        assert (await client.get("/readyz")).status_code == 200
        hub.connection.ledger.writer.close()
        assert (await client.get("/readyz")).status_code == 200, "looked up at most once a second"
        hub.clock.advance(1)
        assert (await client.get("/readyz")).status_code == 503


async def test_requests_and_acts_are_counted_without_saying_whose(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        acts: list[dict[str, Any]] = [
            {"id": "1", "act": "hold", "body": hold_of(hub, versions["forecast"])},
            {"id": "2", "act": "hold", "body": {}},
        ]
        await client.post("/v1/batch", json={"requests": acts})
        await client.get("/v1/top-ups/top_x")
        page = await client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'payre_hub_requests_total{method="POST",path="/v1/batch",status="200"} 1.0' in page.text
    assert 'payre_hub_requests_total{method="GET",path="/v1/top-ups/{top_up}",status="403"} 1.0' in page.text
    assert 'payre_hub_acts_total{act="hold",outcome="done"} 1.0' in page.text
    assert 'payre_hub_acts_total{act="hold",outcome="invalid_request"} 1.0' in page.text
    assert "pyr_" not in page.text
    assert "dev_" not in page.text


async def test_without_prometheus_there_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payre_mcp.hub.metrics, "prometheus", None)
    async with again(hub).client() as client:
        answer = await client.get("/metrics")
        assert (await client.get("/v1/tools")).status_code == 200
    assert answer.status_code == 404
    assert "payre-mcp[prometheus]" in answer.json()["message"]
