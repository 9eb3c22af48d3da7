"""What coalescing brings a seller at a hub: charges over the remote gateway against one request for each charge.

    python tests/benchmarks/hub.py [--seconds 2]

The hub runs in a process of its own and waits for its disk. Both sides must first do the same work; the ledger is audited
afterwards. Prints one JSON object; only the ratios of one run mean something.
"""

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx2

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed payre_mcp, or one on PYTHONPATH, is measured instead

from payre_mcp.connection import open_ledger
from payre_mcp.dev.web import listen, origin, serving
from payre_mcp.gateway.base import CallRequest
from payre_mcp.gateway.hub_address import HubAddress
from payre_mcp.gateway.remote import RemoteGateway
from payre_mcp.gateway.schemas import SettledAnswer
from payre_mcp.hub.app import hub_application
from payre_mcp.keys import Role
from payre_mcp.money import Money
from payre_mcp.pricing import Target, load_price
from payre_mcp.receipts import sha256_hex
from payre_mcp.wallet.server import build_wallet
from tests.benchmarks.common import REPEATS, Row, fsync_probe, held, percentile, print_report, progress
from tests.fakes import fund

AT_ONCE = 64
CONSUMERS = 256
PRICE = load_price("0.000001")
ECHO = Target("tool", "echo")
RATE = 10_000_000

Act = Callable[[], Awaitable[object]]


class Hub(NamedTuple):
    """Where the hub is, and who buys and sells there."""

    url: str
    secret_key: str
    consumer_keys: list[str]


async def serve(folder: Path) -> None:
    """Be the hub until stdin ends."""
    connection, listener = open_ledger(f"sqlite:///{folder / 'payre.db'}"), listen()
    with closing(connection), closing(listener):
        directory = connection.ledger.directory
        secret = directory.create_key(Role.DEVELOPER, directory.sole_developer().id)
        keys = [fund(connection.ledger, 1_000_000_000, name=str(number)).key.text for number in range(CONSUMERS)]
        app = hub_application(connection, build_wallet(connection.wallet), developer_rate=RATE)
        async with serving(app, listener):
            print(json.dumps([origin(listener), secret.text, keys]), flush=True)
            await anyio.to_thread.run_sync(sys.stdin.read)


@contextmanager
def hub_process(folder: Path) -> Generator[Hub]:
    """A hub in a process of its own."""
    line = [sys.executable, __file__, "--serve", str(folder)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Hub(*json.loads(process.stdout.readline()))
    finally:
        process.communicate()


class Sides:
    """The same charge, asked for in two ways."""

    def __init__(self, hub: Hub, gateway: RemoteGateway, http: httpx2.AsyncClient) -> None:
        self._hub, self._gateway, self._http = hub, gateway, http

    def _request(self) -> CallRequest:
        return CallRequest(
            api_key=secrets.choice(self._hub.consumer_keys), server="bench", target=ECHO, price_version=PRICE.version,
            args_sha256=sha256_hex(b"{}"), amount=Money(1), idempotency_key=secrets.token_hex(16),
        )  # fmt: skip

    async def coalesced(self) -> object:
        """Through the gateway, which sends what waits together."""
        return await self._gateway.charge(self._request())

    async def alone(self) -> object:
        """A request of its own."""
        asked = self._request()
        body = {"api_key": asked.api_key, "server": "bench", "tool": "echo", "amount_micros": 1, "args_sha256": asked.args_sha256}
        answer = await self._http.post(
            f"{self._hub.url}/v1/charges", json={**body, "price_version": asked.price_version},
            headers={"Idempotency-Key": asked.idempotency_key or ""},
        )  # fmt: skip
        return SettledAnswer.model_validate_json(answer.raise_for_status().content).as_settled()

    async def nothing(self) -> object:
        """A request that does nothing."""
        return await self._http.get(f"{self._hub.url}/healthz")

    async def check_same_work(self) -> None:
        """Both are answered a settlement over the same amount, with a receipt."""
        first, second = await self.coalesced(), await self.alone()
        assert type(first) is type(second), (first, second)
        shown = [{name: getattr(each, name) for name in ("amount", "fee", "balance")} for each in (first, second)]
        assert shown[0] == shown[1]
        assert all(getattr(each, "receipt", "").count(".") == 2 for each in (first, second))


async def load(act: Act, at_once: int, seconds: float) -> tuple[float, float]:
    """How often it goes in a second, `at_once` at a time, and the median time of one in milliseconds."""
    took, started = list[float](), time.perf_counter()

    async def caller() -> None:
        while (before := time.perf_counter()) - started < seconds:
            await act()
            took.append(time.perf_counter() - before)

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(caller)
    return len(took) / (time.perf_counter() - started), percentile(took, 50) * 1000


async def compare(at_once: int, seconds: float, **acts: Act) -> dict[str, float]:
    """All in turn, as often as every cell is repeated; the medians by name."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for _ in range(REPEATS):
        for name, act in acts.items():
            measured[name].append(await load(act, at_once, seconds))
    cells: dict[str, float] = {}
    for name, loads in measured.items():
        cells[f"{name}_per_s"] = statistics.median(rate for rate, _ in loads)
        cells[f"{name}_p50_ms"] = statistics.median(p50 for _, p50 in loads)
    return cells


async def measure(folder: Path, seconds: float) -> list[Row]:
    """Every row of the report."""
    disk = fsync_probe(folder, 1.0)
    rows = [Row("fsync", "4 KiB append and fdatasync, p50", round(disk.p50_ms, 3), "ms")]
    with hub_process(folder) as hub:
        gateway = RemoteGateway(HubAddress.parse(hub.url, hub.secret_key))
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        headers = {"Authorization": f"Bearer {hub.secret_key}"}
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=60, trust_env=False) as http:
            await gateway.publish("bench", {ECHO: PRICE})
            sides = Sides(hub, gateway, http)
            await sides.check_same_work()
            progress(f"{AT_ONCE} at once ...")
            cells = await compare(AT_ONCE, seconds, coalesced=sides.coalesced, alone=sides.alone)
            ratio = cells["coalesced_per_s"] / cells["alone_per_s"]
            what = f"charges/s, coalesced against one request each, {AT_ONCE} at once"
            rows.append(held(f"coalesced_{AT_ONCE}", what, ratio, "at least", 5.0, cells))
            progress("one at a time ...")
            cells = await compare(1, seconds, coalesced=sides.coalesced, alone=sides.alone, nothing=sides.nothing)
            ratio = cells["coalesced_p50_ms"] / cells["nothing_p50_ms"]
            rows.append(held("p50_1", "p50 of one charge against a request that does nothing", ratio, "at most", 2.5, cells))
        await gateway.aclose()
    return rows


def check_books(folder: Path) -> None:
    """Every invariant of the hub's ledger, after the hub has gone."""
    connection = open_ledger(f"sqlite:///{folder / 'payre.db'}")
    with closing(connection):
        report = connection.audit()
    assert report.ok, report.violations
    assert report.charges
    assert not report.open_holds


def main() -> None:
    """Measure all, or be the hub."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one timed stretch lasts")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        anyio.run(serve, options.serve)
        return
    with tempfile.TemporaryDirectory(prefix="payre-bench-") as folder:
        rows = anyio.run(measure, Path(folder), options.seconds)
        check_books(Path(folder))
        print_report(options.seconds, rows)


if __name__ == "__main__":
    main()
