"""Giving a server its prices: by decorator, as a class, from a mapping, on a server that exists."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from payre_mcp import PaidMCPServer, Payre, Price, tool
from payre_mcp.connection import open_ledger
from payre_mcp.errors import PayreError, PriceSpecInvalid, SettingsInvalid
from payre_mcp.ledger.model import Kind
from tests.fakes import PATIENCE_S, finish, fund, journal_of, start_python
from tests.server.conftest import Shop, meta_of, text_of


def forecast(city: str) -> str:
    return f"{city}: sunny"


def radar(city: str) -> str:
    return f"{city}: no rain"


async def prices_of(server: MCPServer[Any]) -> dict[str, int | None]:
    """What a client is told of every tool, in order: the most it costs, in micros, or None."""
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
    return {tool.name: (tool.meta or {}).get("dev.payre/price", {}).get("max_micros") for tool in tools}


async def start(server: MCPServer[Any]) -> None:
    async with Client(server) as client:
        await client.list_tools()


def errors_in(group: BaseException) -> list[BaseException]:
    """The errors in a group, however deep."""
    if isinstance(group, BaseExceptionGroup):
        return [error for each in group.exceptions for error in errors_in(each)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownMemberType]
    return [group]


async def refusal_to_start(server: MCPServer[Any]) -> PayreError:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the client wraps it in groups of its own
        await start(server)
    (error,) = errors_in(caught.value)
    assert isinstance(error, PayreError)
    return error


def codes(error: PayreError) -> list[tuple[str, str]]:
    assert isinstance(error, PriceSpecInvalid)
    return [(problem.code, problem.path) for problem in error.problems]


# Decorators.


async def test_a_decorator_prices_a_tool_and_leaves_the_function_alone(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())

    @server.tool(price="$0.005", title="Forecast")
    def forecast(city: str) -> str:
        """Tomorrow's weather."""
        return f"{city}: sunny"

    @server.tool()
    def cities() -> list[str]:
        return ["Oslo"]

    assert forecast("Oslo") == "Oslo: sunny"
    assert await prices_of(server) == {"forecast": 5_000, "cities": None}
    assert await prices_of(server) == {"forecast": 5_000, "cities": None}, "a server may start again"


@pytest.mark.parametrize("price", ["0.005", "$0.005", 0.005, Price.per_call("0.005"), {"price": "0.005"}])
async def test_a_price_is_taken_in_every_form(shop: Shop, price: Any) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(name="sky", price=price)(forecast)
    assert await prices_of(server) == {"sky": 5_000}


@pytest.mark.parametrize("price", ["five cents", -1, "0.0000001", {"prise": "1"}, {}, True, [0.005]])
async def test_a_price_that_cannot_be_used_is_refused_where_it_is_written(shop: Shop, price: Any) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    with pytest.raises(PriceSpecInvalid) as caught:
        server.tool(price=price)(forecast)
    assert codes(caught.value)
    assert await prices_of(server) == {}


async def test_a_name_takes_one_price_and_one_tool(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price="0.005")(forecast)
    server.tool()(radar)
    with pytest.raises(ValueError, match="exists already"):
        server.tool(name="forecast", price="0.1")(radar)
    with pytest.raises(ValueError, match="exists already"):
        server.tool(name="radar", price="0.1")(forecast)
    with pytest.raises(ValueError, match="exists already"):
        server.tool(name="forecast")(radar)
    with pytest.raises(ValueError, match="exists already"):
        server.add_tool(radar, "forecast")
    assert await prices_of(server) == {"forecast": 5_000, "radar": None}


async def test_a_priced_tool_cannot_be_removed_and_a_free_one_can(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre())
    server.tool(price="0.005")(forecast)
    server.tool()(radar)
    server.remove_tool("radar")
    with pytest.raises(ValueError, match="has a price"):
        server.remove_tool("forecast")
    with pytest.raises(ToolError):
        server.remove_tool("never made")
    assert await prices_of(server) == {"forecast": 5_000}


# Mappings.


async def test_a_mapping_prices_tools_that_have_none_of_their_own(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre(), pricing={"radar": "0.01"})
    server.tool(price="0.005")(forecast)
    server.tool()(radar)
    assert await prices_of(server) == {"forecast": 5_000, "radar": 10_000}


async def test_two_prices_for_one_tool_are_an_error_at_definition(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre(), pricing={"forecast": "0.01"})
    with pytest.raises(PriceSpecInvalid) as caught:
        server.tool(price="0.005")(forecast)
    assert codes(caught.value) == [("duplicate_price", "forecast")]


async def test_all_problems_of_a_mapping_are_told_together_and_then_nothing_is_taken(shop: Shop) -> None:
    payre = shop.payre(prices={"radar": "0.01"})
    with pytest.raises(PriceSpecInvalid) as caught:
        payre.pricing({"forecast": "0.005", "radar": "0.02", "archive": "cheap", "station": {"prise": 1}})
    assert {path.split(".")[0] for _, path in codes(caught.value)} == {"radar", "archive", "station"}
    assert [target.name for target in payre.metering.prices.specs] == ["radar"]


async def test_a_price_that_names_no_tool_stops_the_server_at_start(shop: Shop) -> None:
    server = PaidMCPServer("shop", payre=shop.payre(), pricing={"forcast": "0.005", "rader": "0.01"})
    server.tool()(forecast)
    assert codes(await refusal_to_start(server)) == [("unknown_target", "forcast"), ("unknown_target", "rader")]


# Classes.


class Weather(PaidMCPServer):
    def __init__(self, payre: Payre) -> None:
        super().__init__("weather", payre=payre)
        self.calls = 0

    @tool(price="0.005")
    async def forecast(self, city: str) -> str:
        """Tomorrow's weather."""
        self.calls += 1
        return f"{city}: sunny"

    @tool(price="0.01", name="rain-radar")
    def radar(self, city: str) -> str:
        return f"{city}: no rain"

    @tool()
    def cities(self) -> list[str]:
        return ["Oslo"]

    def unmarked(self) -> str:
        return "not a tool"


class BetterWeather(Weather):
    @tool(price="0.5")
    async def archive(self, city: str) -> str:
        return f"{city}: 36,525 days"

    @tool(price="0.02")
    async def forecast(self, city: str) -> str:
        """Tomorrow's weather, better."""
        return f"{city}: certainly sunny"

    def cities(self) -> list[str]:
        return ["Bergen"]


async def test_marked_methods_are_tools_in_the_order_of_their_definition(shop: Shop) -> None:
    assert list((await prices_of(Weather(shop.payre()))).items()) == [
        ("forecast", 5_000),
        ("rain-radar", 10_000),
        ("cities", None),
    ]


async def test_a_method_sees_its_server_and_is_charged(shop: Shop) -> None:
    server = Weather(shop.payre())
    async with Client(server) as client:
        result = await shop.call(client, "forecast")
    assert (text_of(result), shop.receipt(result).server, server.calls, shop.spent()) == ("Oslo: sunny", "weather", 1, 5_000)


async def test_a_subclass_inherits_adds_and_overrides_each_tool_once(shop: Shop) -> None:
    """An override that is not marked again takes the tool away, as it hides the method."""
    server = BetterWeather(shop.payre())
    assert list((await prices_of(server)).items()) == [("forecast", 20_000), ("rain-radar", 10_000), ("archive", 500_000)]
    async with Client(server) as client:
        assert text_of(await shop.call(client, "forecast")) == "Oslo: certainly sunny"
    assert shop.spent() == 20_000


@pytest.mark.parametrize(
    "name",
    ["run", "name", "tool", "middleware", "resource", "add_tool", "session_manager", "settings", "payre"],
)
def test_a_method_that_would_replace_a_part_of_the_server_is_refused_at_definition(name: str) -> None:
    def method(self: Any) -> str:
        return "hidden"

    with pytest.raises(TypeError, match=f"name={name!r}"):
        type("Shadow", (PaidMCPServer,), {name: tool(price="0.005")(method)})


async def test_a_refused_name_may_still_be_a_tools_name(shop: Shop) -> None:
    class Runner(PaidMCPServer):
        @tool(price="0.005", name="run")
        async def run_it(self, city: str) -> str:
            return city

    assert await prices_of(Runner("runner", payre=shop.payre())) == {"run": 5_000}


def test_a_wrong_price_of_a_method_is_refused_when_the_server_is_made(shop: Shop) -> None:
    class Cheap(PaidMCPServer):
        @tool(price="cheap")
        async def forecast(self, city: str) -> str:
            return city

    with pytest.raises(PriceSpecInvalid):
        Cheap("cheap", payre=shop.payre())


# Servers that exist, and whose ledger it is.


async def test_payre_meters_a_server_that_exists(shop: Shop) -> None:
    server = MCPServer("library")
    server.tool()(forecast)
    assert shop.payre(prices={"forecast": "0.005"}).install(server) is server
    async with Client(server) as client:
        assert shop.receipt(await shop.call(client, "forecast")).server == "library"


async def test_what_is_no_server_is_not_metered(shop: Shop) -> None:
    with pytest.raises(TypeError, match="MCPServer"):
        shop.payre().install(object())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("second", ["class", "install"])
async def test_one_payre_meters_one_server(shop: Shop, second: str) -> None:
    payre = shop.payre()
    PaidMCPServer("first", payre=payre)
    make: dict[str, Callable[[], object]] = {
        "class": lambda: PaidMCPServer("second", payre=payre),
        "install": lambda: payre.install(MCPServer("second")),
    }
    with pytest.raises(ValueError, match="meters 'first' already"):
        make[second]()


async def test_the_extension_is_advertised_to_modern_clients(shop: Shop) -> None:
    async with Client(shop.server(forecast)) as client:
        extensions = client.server_capabilities.extensions or {}
    assert extensions["dev.payre/metering"] == {"version": 1, "currency": "USD"}


async def test_the_servers_own_lifespan_extensions_and_middleware_still_work(shop: Shop) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_: MCPServer[dict[str, str]]) -> AsyncGenerator[dict[str, str]]:
        seen.append("started")
        yield {}
        seen.append("stopped")

    async def middleware(ctx: Any, call_next: Any) -> Any:
        seen.append(ctx.method)
        return await call_next(ctx)

    server = PaidMCPServer("shop", payre=shop.payre(), lifespan=lifespan, middleware=[middleware])
    server.tool(price="0.005")(forecast)
    async with Client(server) as client:
        await shop.call(client, "forecast")
    assert (seen[0], seen[-1]) == ("started", "stopped")
    assert "tools/call" in seen
    assert shop.spent() == 5_000


async def test_a_server_that_is_given_an_address_opens_that_ledger_at_start_and_closes_it_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "payre.db"
    server = PaidMCPServer("shop", payre=f"sqlite:///{path}")
    server.tool(price="0.005")(forecast)
    assert not path.exists()
    for _ in range(2):
        async with Client(server) as client:
            assert path.exists()
            consumer = fund_at(path)
            assert "dev.payre/receipt" in meta_of(await pay(client, consumer))
        assert not path.with_name("payre.db-wal").exists(), "the last one out has closed it"
    assert [row.kind for row in journal_of(path)].count(Kind.CAPTURE) == 2


async def pay(client: Client, key: str) -> Any:
    return await client.call_tool("forecast", {"city": "Oslo"}, meta={"dev.payre/key": key})  # pyright: ignore[reportArgumentType]


def fund_at(path: Path) -> str:
    """The key of a new consumer in a ledger that another connection has open."""
    connection = open_ledger(f"sqlite:///{path}")
    try:
        return fund(connection.ledger, 1_000_000).key.text
    finally:
        connection.close()


@pytest.mark.parametrize("url", ["postgres://nowhere", "payre.db", "sqlite:///", "sqlite:///:memory:"])
async def test_an_address_of_no_known_kind_stops_the_server_at_start(url: str) -> None:
    server = PaidMCPServer("shop", payre=url)
    server.tool(price="0.005")(forecast)
    assert isinstance(await refusal_to_start(server), SettingsInvalid)


IMPORT = """
import os, sys
from pathlib import Path
os.environ["PAYRE_DATA"] = sys.argv[1]
from payre_mcp import PaidMCPServer, tool

class Weather(PaidMCPServer):
    @tool(price="0.005")
    def forecast(self, city: str) -> str:
        return city

server = Weather("weather")
assert not Path(sys.argv[1]).exists()
heavy = {"sqlmodel", "sqlalchemy", "stripe"} & {name.partition(".")[0] for name in sys.modules}
assert not heavy, heavy
"""

START = """
import anyio, json
from mcp import Client

async def main():
    async with Client(server) as client:
        (listed,) = (await client.list_tools()).tools
        refused = await client.call_tool("forecast", {"city": "Oslo"})
    print(json.dumps([listed.description, refused.structured_content["error"]]))

anyio.run(main)
"""


def test_a_server_is_defined_without_opening_anything(tmp_path: Path) -> None:
    finish(start_python(IMPORT, tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_server_without_a_ledger_of_its_own_opens_the_users_at_start_and_says_where(tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = start_python(IMPORT + START, data)
    out, err = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode == 0, err
    assert json.loads(out) == ["Costs $0.005 per call.", "payment_required"]
    (line,) = [line for line in err.splitlines() if line.startswith("payre:")]
    assert str(data / "payre.db") in line
    assert "payre keys create" in line
    assert sorted(file.name for file in data.iterdir()) == ["payre.db", "payre.keys"]


async def test_a_ledger_that_cannot_be_opened_stops_the_server_at_start(tmp_path: Path) -> None:
    (tmp_path / "payre.db").write_text("this is not a database, and it is longer than its header would be " * 20)
    server = PaidMCPServer("shop", payre=f"sqlite:///{tmp_path / 'payre.db'}")
    server.tool(price="0.005")(forecast)
    assert (await refusal_to_start(server)).code == "ledger_invalid"


async def test_an_installed_price_that_names_no_tool_stops_the_list_of_tools(shop: Shop, mode: Any) -> None:
    """A plain server cannot be stopped at its start; a misspelt price must not make the tool that was meant free."""
    server: MCPServer[Any] = MCPServer("installed")
    shop.payre(prices={"forcast": "0.005"}).install(server)
    async with Client(server, mode=mode) as client:
        with pytest.raises(MCPError) as refusal:
            await client.list_tools()
    assert refusal.value.error.data["error"] == "price_spec_invalid"
    assert "forcast" in refusal.value.error.message
