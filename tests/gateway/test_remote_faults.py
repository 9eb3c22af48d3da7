"""A seller whose hub is down, slow, cut off or out of its mind: priced calls are refused in time, and no money is lost.

Between them stands a proxy that spoils about half of what passes. Afterwards the line heals, and the books must show that
each call that ran was charged once, that no other was, and that no money is still held. `--faults` runs long ones.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import anyio
import pytest
from mcp import Client

from payre_mcp.connection import Connection, open_ledger
from payre_mcp.errors import PayreUnavailable
from payre_mcp.gateway.base import Authorization, CallOutcome, CallRequest
from payre_mcp.gateway.remote import Patience
from payre_mcp.ids import format_id
from payre_mcp.ledger.model import Kind
from payre_mcp.receipts import sha256_hex
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.broken_line import BrokenLine, Mode, broken_line
from tests.fakes import Funded, fund, journal_of, open_holds_of
from tests.gateway.test_local import CENT, FORECAST
from tests.hubs import Hub, running_hub
from tests.server.conftest import code_of

MODES: tuple[Mode, ...] = get_args(Mode)
PRICE_MICROS = 5_000
FUNDS_MICROS = 10_000_000
HASTY = Patience(timeout=0.4, hold=0.5, settle=0.8)
"""So that a test need not wait as long as a caller."""


@dataclass
class Told:
    """What callers were told, and what happened meanwhile."""

    ran: list[int] = field(default_factory=list[int])
    outcomes: dict[int, str] = field(default_factory=dict[int, str])
    free: list[int] = field(default_factory=list[int])
    slowest_refusal_s: float = 0.0

    def with_outcome(self, *wanted: str) -> set[int]:
        """The calls that ended so."""
        return {number for number, outcome in self.outcomes.items() if outcome in wanted}


@pytest.fixture
def connection(ledger_path: Path) -> Iterator[Connection]:
    """A ledger on the machine's own clock."""
    connection = open_ledger(f"sqlite:///{ledger_path}")
    yield connection
    connection.close()


@pytest.fixture
def consumer(connection: Connection) -> Funded:
    return fund(connection.ledger, FUNDS_MICROS)


@pytest.fixture
def hub(connection: Connection) -> Iterator[Hub]:
    with running_hub(connection) as hub:
        yield hub


def paid_server(payre: Payre, told: Told) -> PaidMCPServer:
    server = PaidMCPServer("weather", payre=payre)

    @server.tool(price="0.005")
    def forecast(number: int) -> str:
        told.ran.append(number)
        return "sunny"

    @server.tool()
    def opening_hours() -> str:
        return "9 to 5"

    return server


async def sell(hub: Hub, key: str, line: BrokenLine, patience: Patience, *, calls: int, at_once: int) -> Told:
    """Call over a line that goes wrong as soon as the server runs; returns when it has healed and all is settled."""
    told, numbers = Told(), iter(range(calls))
    gateway = hub.gateway(line.url, patience=patience)
    spoils, line.spoils = line.spoils, lambda: False

    async def caller(client: Client) -> None:
        for number in numbers:
            began = time.monotonic()
            result = await client.call_tool("forecast", {"number": number}, meta={"dev.payre/key": key})
            told.outcomes[number] = code_of(result) or str((result.meta or {}).get("dev.payre/settlement", "charged"))
            if result.is_error:
                told.slowest_refusal_s = max(told.slowest_refusal_s, time.monotonic() - began)
            if not (await client.call_tool("opening_hours", {})).is_error:
                told.free.append(number)

    async with Client(paid_server(Payre(gateway=gateway), told)) as client:
        line.spoils = spoils
        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(caller, client)
        line.heal()
    await gateway.aclose()
    return told


def check_books(connection: Connection, consumer: Funded, told: Told) -> None:
    """What was charged is what ran; nothing is held; the ledger's own audit finds no fault."""
    refused = told.with_outcome("payre_unavailable")
    paid = told.with_outcome("charged", "pending")
    assert refused | paid == set(told.outcomes), told.outcomes
    assert sorted(told.ran) == sorted(paid), "a call ran and was refused, or ran twice"
    kinds = Counter(row.kind for row in journal_of(connection.ledger))
    assert kinds[Kind.CAPTURE] == len(paid)
    assert kinds[Kind.CHARGE] == 0
    assert kinds[Kind.HOLD] == kinds[Kind.CAPTURE] + kinds[Kind.VOID]
    assert consumer.account().balance_micros == FUNDS_MICROS - len(paid) * PRICE_MICROS
    assert open_holds_of(connection.ledger) == {}
    report = connection.audit()
    assert report.ok, report.violations
    assert sorted(told.free) == sorted(told.outcomes)


@pytest.mark.parametrize("mode", MODES)
async def test_whatever_the_line_does_each_call_that_ran_is_charged_once_and_no_other(
    connection: Connection, consumer: Funded, hub: Hub, mode: Mode
) -> None:
    with broken_line(hub.url, mode, seed=MODES.index(mode)) as line:
        told = await sell(hub, consumer.key.text, line, HASTY, calls=12, at_once=4)
        assert line.spoilt
    check_books(connection, consumer, told)
    assert told.slowest_refusal_s < 5


async def test_a_charge_that_never_gets_through_is_told_to_the_operator_with_its_hold(
    connection: Connection, consumer: Funded, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with broken_line(hub.url, "drop") as line:
        line.spoils = lambda: False
        gateway = hub.gateway(line.url, patience=HASTY._replace(close=0.1))
        await gateway.publish("weather", {FORECAST: CENT})
        call = CallRequest(
            api_key=consumer.key.text,
            server="weather",
            target=FORECAST,
            price_version=CENT.version,
            args_sha256=sha256_hex(b"{}"),
        )
        held = await gateway.authorize(call)
        assert isinstance(held, Authorization)
        line.spoils = lambda: True
        with pytest.raises(PayreUnavailable):
            await gateway.capture(held, CallOutcome())
        await gateway.aclose()
    (told,) = [each for each in caplog.records if each.levelno == logging.ERROR and "could not be charged" in each.getMessage()]
    assert format_id("hold", held.hold_id) in told.getMessage()
    assert hub.secret_key not in caplog.text
    assert consumer.key.text not in caplog.text


@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("mode", MODES)
async def test_two_hundred_calls_over_a_line_that_breaks(
    connection: Connection, consumer: Funded, hub: Hub, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the patience that sellers have; prints what came of it."""
    seed = int.from_bytes(os.urandom(4), "big")
    with broken_line(hub.url, mode, seed) as line:
        told = await sell(hub, consumer.key.text, line, Patience(), calls=200, at_once=16)
        exchanges, spoilt = line.exchanges, line.spoilt
    with capsys.disabled():
        outcomes = dict(Counter(told.outcomes.values()))
        slowest = round(told.slowest_refusal_s, 2)
        print(f"\n{mode}: seed {seed}, {spoilt} of {exchanges} exchanges spoilt, {outcomes}, slowest refusal {slowest} s")  # noqa: T201
    check_books(connection, consumer, told)
    assert told.slowest_refusal_s < 5
