"""`payre hub` as an operator runs it: a process, the line it prints, its end."""

import json
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from typer.testing import CliRunner

from payre_mcp.cli.app import app
from payre_mcp.dev.web import listen
from payre_mcp.keys import Role, parse_key
from tests.hub.served import PAYRE, ROOT, Served, serving_hub


@pytest.fixture
def anyio_backend() -> str:
    """As uvicorn is."""
    return "asyncio"


@pytest.fixture
def served(tmp_path: Path) -> Generator[Served]:
    """A hub that runs."""
    with serving_hub(tmp_path, PAYRE_ALLOWED_HOSTS="pay.example") as served:
        yield served


async def test_a_hub_says_where_it_is_serves_api_and_wallet_and_stops_when_told(served: Served) -> None:
    with served.client() as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v1/openapi.json").json()["openapi"] == "3.1.0"
        assert client.get("/healthz", headers={"Host": "pay.example"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
        large = client.post("/v1/batch", content=b" " * ((8 << 20) + 1), headers={"X-Request-Id": "mine"})
        assert (large.status_code, large.json()["error"], large.headers["x-request-id"]) == (413, "body_too_large", "mine")
    async with (
        httpx2.AsyncClient(headers={"X-Payre-Key": served.consumer_key}) as http,
        Client(streamable_http_client(f"{served.url}/wallet/mcp", http_client=http)) as wallet,
    ):
        balance = await wallet.call_tool("get_balance", {})
        link = await wallet.call_tool("create_top_up_link", {"amount_usd": 10})
    assert balance.structured_content is not None
    assert balance.structured_content["available"] == "$5.00"
    assert link.structured_content is not None
    assert httpx2.get(link.structured_content["url"]).status_code == 200
    assert served.stop() == ""
    assert served.audit().violations == []


def test_what_a_hub_has_taken_is_done_and_acknowledged_before_it_stops(served: Served) -> None:
    """Every request is either answered, and booked as the answer says, or never was."""
    going = Event()

    def sell(seller: int) -> int:
        acknowledged = 0
        with served.client(timeout=30) as client:
            for turn in range(10_000):
                charge = {"api_key": served.consumer_key, "tool": "forecast", "amount": "0.000001"}
                batch = [{"id": f"{seller}-{turn}-{n}", "act": "charge", "body": charge} for n in range(20)]
                try:
                    answer = client.post("/v1/batch", json={"requests": batch})
                except httpx2.TransportError:
                    return acknowledged
                if answer.status_code == 503:
                    return acknowledged
                assert answer.status_code == 200, answer.text
                answers = answer.json()["answers"]
                assert {answer["status"] for answer in answers} == {200}
                acknowledged += len(answers)
                going.set()
        return acknowledged

    with served.client() as client:
        client.post("/v1/tools", json={"name": "forecast", "price": "0.000001"})
    with ThreadPoolExecutor(8) as sellers:
        working = [sellers.submit(sell, seller) for seller in range(8)]
        assert going.wait(20)
        served.stop()
        acknowledged = sum(each.result() for each in working)
    report = served.audit()
    assert report.violations == []
    assert report.charges == acknowledged >= 20


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (("--host", "0.0.0.0"), "PAYRE_ALLOWED_HOSTS", 2),
        (("--url", "mysql://nowhere"), "cannot open the ledger", 2),
    ],
)
def test_a_hub_that_would_not_be_safe_does_not_start(tmp_path: Path, options: tuple[str, ...], said: str, code: int) -> None:
    done = subprocess.run(
        [*PAYRE, "hub", "--data", str(tmp_path), "--port", "0", *options], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    with listen() as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*PAYRE, "hub", "--data", str(tmp_path), "--port", str(port)], capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert done.returncode == 1
    assert "choose another with --port" in done.stderr


def test_links_lead_to_where_clients_reach_the_hub(tmp_path: Path) -> None:
    with serving_hub(tmp_path, "--base-url", "https://pay.example/", PAYRE_ALLOWED_HOSTS="pay.example") as served:
        assert served.url == "https://pay.example"
        assert served.process.poll() is None


def test_developers_are_made_and_listed(tmp_path: Path) -> None:
    def payre(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["developers", *arguments, "--data", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return done.stdout

    made = json.loads(payre("create", "Ann", "--json"))
    assert parse_key(made["developer_key"]).role == Role.DEVELOPER
    assert made["developer"] in [each["id"] for each in json.loads(payre("list", "--json")) if each["name"] == "Ann"]
    assert "Ann" in payre("list")
    assert "shown only now" in payre("create", "Bob")
    assert made["developer_key"] not in payre("list")
