"""A hub without a socket: two developers with servers, a consumer with $1.00, and clients whose every answer is checked."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import jsonschema
import pytest
from starlette.applications import Starlette

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.hub.api.endpoints import ENDPOINTS
from payre_mcp.hub.api.openapi import openapi
from payre_mcp.hub.app import hub_application
from payre_mcp.hub.pages import TOP_UP_PATH
from payre_mcp.keys import Role
from payre_mcp.wallet.server import build_wallet
from tests.fakes import Funded

ORIGIN = "http://127.0.0.1:8080"
DOCUMENT = openapi(ENDPOINTS, version="0")
DIGEST = "0" * 64


@dataclass(frozen=True)
class Seller:
    """A developer of the hub."""

    id: int
    key: str


@dataclass(frozen=True)
class Hub:
    """A hub and the people around it."""

    app: Starlette
    connection: Connection
    clock: ManualClock
    ann: Seller
    bob: Seller
    ada: Funded

    @asynccontextmanager
    async def client(self, key: str | None = None, **headers: str) -> AsyncGenerator[httpx2.AsyncClient]:
        """A client that sends this key, by default Ann's; with an empty one, none."""
        key = self.ann.key if key is None else key
        sent = {"Authorization": f"Bearer {key}", **headers} if key else headers
        transport = httpx2.ASGITransport(app=self.app)
        hooks = {"response": [conforms]}
        async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN, headers=sent, event_hooks=hooks) as client:
            yield client

    def audited(self) -> None:
        """Every money invariant holds."""
        assert self.connection.audit().violations == []


def make_hub(connection: Connection, clock: ManualClock, ada: Funded, **options: Any) -> Hub:
    """A hub over this ledger."""
    connection.top_ups.page = ORIGIN + TOP_UP_PATH
    app = hub_application(connection, build_wallet(connection.wallet), clock=clock, **options)
    directory = connection.ledger.directory

    def seller(name: str) -> Seller:
        developer = directory.create_developer(name)
        return Seller(developer.id, directory.create_key(Role.DEVELOPER, developer.id, label=name).text)

    return Hub(app, connection, clock, seller("ann"), seller("bob"), ada)


def again(hub: Hub) -> Hub:
    """Another process of the same hub, as far as a test can tell: it remembers nothing."""
    app = hub_application(hub.connection, build_wallet(hub.connection.wallet), clock=hub.clock)
    return replace(hub, app=app)


@pytest.fixture
def anyio_backend() -> str:
    """A hub is served by uvicorn, which is asyncio's."""
    return "asyncio"


@pytest.fixture
def hub(connection: Connection, clock: ManualClock, consumer: Funded) -> Hub:
    """A hub over a ledger of this test's own."""
    return make_hub(connection, clock, consumer)


async def conforms(response: httpx2.Response) -> None:
    """Every answer of the API is as its document says."""
    await response.aread()
    assert response.headers["x-request-id"]
    path, operations = _documented(response.request.url.path)
    if not path.startswith("/v1/"):
        return
    operation: Mapping[str, Any] = operations.get(response.request.method.lower(), {})
    status = str(response.status_code)
    answers = operation.get("responses", {})
    documented = answers.get(status) or answers.get(f"{status[0]}XX")
    if documented is None:
        assert status in {"404", "405", "421"}
        schema: Any = {"$ref": "#/components/schemas/Error"}
    else:
        schema = documented["content"]["application/json"]["schema"]
    if response.request.method != "HEAD":
        validator: Any = jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
        validator.validate(response.json())


def _documented(path: str) -> tuple[str, Mapping[str, Any]]:
    for template, operations in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]*", template), path):
            return template, operations
    return ("/v1/", {}) if path.startswith("/v1/") and path != "/v1/openapi.json" else ("", {})


async def publish(client: httpx2.AsyncClient, server: str = "weather", **prices: Any) -> dict[str, str]:
    """Publish prices by tool name; their versions."""
    sent = {"prices": [{"name": name, "spec": spec} for name, spec in (prices or {"forecast": "0.005"}).items()]}
    answer = await client.put(f"/v1/servers/{server}/prices", json=sent)
    assert answer.status_code == 200, answer.text
    return {price["name"]: price["version"] for price in answer.json()["prices"]}


def hold_of(hub: Hub, version: str, **fields: Any) -> dict[str, Any]:
    """A request to hold for Ada's call of `forecast`."""
    call = {"api_key": hub.ada.key.text, "server": "weather", "name": "forecast", "price_version": version, "args_sha256": DIGEST}
    return {**call, **fields}


def named(name: str) -> dict[str, str]:
    """The header of a request's name."""
    return {"Idempotency-Key": name}
