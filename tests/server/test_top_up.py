"""No money in the middle of a call: who is asked, how, and that the same call goes on once it can be paid.

Every row of the table in the README's page on calls stands here, with a real client of that era and those capabilities.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ElicitRequestURLParams, ElicitResult, InputRequiredResult

from payre_mcp import PaidMCPServer
from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection, open_ledger
from payre_mcp.dev.web import listen, origin, serving
from tests.fakes import PATIENCE_S, Funded, fund
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of
from tests.server.test_rounds import MODERN, question

PRICE = 5_000
PAGE = "http://127.0.0.1:8402/top-ups"
ERAS: Any = ["auto", "legacy"]


@pytest.fixture
def connection(ledger_path: Any, clock: ManualClock) -> Any:
    """A ledger beside a page where money can be added."""
    connection = open_ledger(f"sqlite:///{ledger_path}", clock=clock, top_up_page=PAGE)
    yield connection
    connection.close()


@pytest.fixture
def consumer(connection: Connection) -> Funded:
    """A consumer with a tenth of a cent."""
    return fund(connection.ledger, 1_000)


@dataclass
class Person:
    """Who sits before a client: pays what is asked, or does as the test says."""

    connection: Connection
    action: Any = "accept"
    pays: bool = True
    asked: list[Any] = field(default_factory=list[Any])
    completed: list[str] = field(default_factory=list[str])

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append(params)
        assert isinstance(params, ElicitRequestURLParams)
        if self.pays:
            await self.connection.top_ups.pay_test_top_up(params.url.rpartition("/")[2])
        return ElicitResult(action=self.action)


def selling(shop: Shop, wait_s: float = PATIENCE_S, **options: Any) -> PaidMCPServer:
    """A server with a tool, a resource, a template and a prompt, each at half a cent."""
    server = PaidMCPServer("shop", payre=shop.payre(top_up_wait_s=wait_s), **options)

    @server.tool(price="0.005")
    async def forecast(city: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return f"{city}: sunny"

    @server.resource("report://now", price="0.005")
    async def now() -> str:  # pyright: ignore[reportUnusedFunction]
        return "now"

    @server.prompt(price="0.005")
    async def brief() -> str:  # pyright: ignore[reportUnusedFunction]
        return "brief"

    return server


def asking(shop: Shop, seen: list[Any]) -> PaidMCPServer:
    """A server with a tool that asks its caller once, and what it was given each time."""
    server = PaidMCPServer("shop", payre=shop.payre(top_up_wait_s=PATIENCE_S))

    @server.tool(price="0.005")
    async def ask(ctx: Context) -> str | InputRequiredResult:  # pyright: ignore[reportUnusedFunction]
        seen.append((ctx.request_state, sorted(ctx.input_responses or {})))
        return "done" if ctx.input_responses else question(state="mine")

    return server


def spent(shop: Shop) -> int:
    """What the calls cost, of the tenth of a cent and the one top-up of $5."""
    return shop.spent() + 5_001_000 - 1_000_000


@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_that_opens_links_is_asked_once_and_its_call_goes_on(shop: Shop, mode: Any) -> None:
    person = Person(shop.connection)
    async with Client(selling(shop), mode=mode, elicitation_callback=person) as client:
        result = await shop.call(client, "forecast")
    (asked,) = person.asked
    assert text_of(result) == "Oslo: sunny"
    assert shop.receipt(result).amount_micros == PRICE
    assert asked.url.startswith(f"{PAGE}/")
    assert "$0.005" in asked.message
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert spent(shop) == PRICE


@pytest.mark.parametrize("mode", ERAS)
async def test_the_question_holds_no_key_no_balance_and_not_the_link_again(shop: Shop, mode: Any) -> None:
    person = Person(shop.connection)
    async with Client(selling(shop), mode=mode, elicitation_callback=person) as client:
        await shop.call(client, "forecast")
    (asked,) = person.asked
    said = asked.model_dump_json()
    assert shop.consumer.key.text not in said
    assert "$0.001" not in said
    assert asked.url not in asked.message


@pytest.mark.parametrize("mode", ERAS)
async def test_resources_and_prompts_ask_and_go_on_too(shop: Shop, mode: Any) -> None:
    person = Person(shop.connection)
    async with Client(selling(shop), mode=mode, elicitation_callback=person) as client:
        read = await client.read_resource("report://now", meta=shop.meta())
        brief = await client.get_prompt("brief", meta=shop.meta())
    assert all("dev.payre/receipt" in (each.meta or {}) for each in (read, brief))
    assert len(person.asked) == 1
    assert spent(shop) == 2 * PRICE


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_who_says_no_gets_the_readable_refusal_with_the_link(shop: Shop, mode: Any, action: str) -> None:
    person = Person(shop.connection, action=action, pays=False)
    async with Client(selling(shop), mode=mode, elicitation_callback=person) as client:
        with anyio.fail_after(PATIENCE_S / 2):  # at once: nobody waits for money that will not come
            result = await shop.call(client, "forecast")
    assert code_of(result) == "insufficient_balance"
    assert facts_of(result)["top_up_url"] == person.asked[0].url
    assert person.asked[0].url in text_of(result)
    assert len(person.asked) == 1
    assert shop.journal() == []


@pytest.mark.parametrize("mode", ERAS)
async def test_an_opened_page_is_no_payment_the_wait_is_bounded_and_nobody_is_asked_twice(shop: Shop, mode: Any) -> None:
    person = Person(shop.connection, pays=False)
    async with Client(selling(shop, wait_s=0.3), mode=mode, elicitation_callback=person) as client:
        result = await shop.call(client, "forecast")
    assert code_of(result) == "insufficient_balance"
    assert person.asked[0].url in text_of(result)
    assert len(person.asked) == 1
    assert shop.journal() == []


@pytest.mark.parametrize("mode", ERAS)
async def test_money_that_comes_while_the_call_waits_wakes_it(shop: Shop, mode: Any) -> None:
    person = Person(shop.connection, pays=False)
    results: list[Any] = []

    async with Client(selling(shop), mode=mode, elicitation_callback=person) as client, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await shop.call(client, "forecast"))

        tasks.start_soon(call)
        with anyio.fail_after(PATIENCE_S):
            while not person.asked:
                await anyio.lowlevel.checkpoint()
            await shop.connection.top_ups.pay_test_top_up(person.asked[0].url.rpartition("/")[2])
    assert text_of(results[0]) == "Oslo: sunny"
    assert spent(shop) == PRICE


@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_that_opens_no_links_gets_the_readable_refusal(shop: Shop, mode: Any) -> None:
    async with Client(selling(shop), mode=mode) as client:
        result = await shop.call(client, "forecast")
        with pytest.raises(MCPError) as refused:
            await client.read_resource("report://now", meta=shop.meta())
    facts = facts_of(result)
    assert (code_of(result), facts["price_usd"], facts["balance_usd"], facts["shortfall_usd"]) == (
        "insufficient_balance", "0.005", "0.001", "0.004",
    )  # fmt: skip
    assert facts["top_up_url"] in text_of(result)
    assert refused.value.error.data == facts
    assert -32019 <= refused.value.error.code <= -32000


async def test_a_client_of_before_links_is_never_sent_one(shop: Shop) -> None:
    """`elicitation: {}` means forms alone, and a form must never ask for a payment."""
    sent: list[Any] = []
    server = selling(shop)

    async def capabilities_without_links(ctx: Any, call_next: Any) -> Any:
        if (known := ctx.session.client_capabilities) is not None:
            known.elicitation.url = None
        return await call_next(ctx)

    async def callback(context: Any, params: Any) -> ElicitResult:
        sent.append(params)
        return ElicitResult(action="accept")

    server.middleware.insert(0, capabilities_without_links)
    for mode in ERAS:
        async with Client(server, mode=mode, elicitation_callback=callback) as client:
            assert code_of(await shop.call(client, "forecast")) == "insufficient_balance"
    assert sent == []


@pytest.mark.parametrize("mode", ERAS)
async def test_without_a_page_nobody_is_asked(ledger_path: Any, mode: Any) -> None:
    with closing(open_ledger(f"sqlite:///{ledger_path}")) as connection:
        shop = Shop(connection, fund(connection.ledger, 1_000))
        person = Person(connection)
        async with Client(selling(shop), mode=mode, elicitation_callback=person) as client:
            result = await shop.call(client, "forecast")
    assert "payre top-up" in text_of(result)
    assert person.asked == []


async def test_a_client_whose_handler_breaks_gets_the_readable_refusal(shop: Shop) -> None:
    async def broken(context: Any, params: Any) -> ElicitResult:
        raise MCPError(code=-32000, message="no browser here")

    async with Client(selling(shop), mode="legacy", elicitation_callback=broken) as client:
        assert code_of(await shop.call(client, "forecast")) == "insufficient_balance"


async def test_a_tool_with_rounds_of_its_own_never_sees_the_question_and_keeps_its_state(shop: Shop) -> None:
    seen: list[Any] = []
    server = asking(shop, seen)

    person = Person(shop.connection)

    async def both(context: Any, params: Any) -> ElicitResult:
        if isinstance(params, ElicitRequestURLParams):
            return await person(context, params)
        return ElicitResult(action="accept", content={"city": "Oslo"})

    async with Client(server, mode=MODERN, elicitation_callback=both) as client:
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert text_of(result) == "done"
    assert seen == [(None, []), ("mine", ["city"])]
    assert shop.journal() == ["HOLD", "CAPTURE"]
    assert spent(shop) == PRICE


async def test_a_call_that_runs_out_of_money_between_its_rounds_asks_and_its_tool_gets_its_answers(
    shop: Shop, clock: ManualClock
) -> None:
    """The hold of the first round has expired, its money was spent; the tool's own answers wait in the sealed state."""
    shop.connection.ledger.writer.ask(shop.consumer.top_up(4_000, key="just enough"))
    seen: list[Any] = []
    server = asking(shop, seen)

    person = Person(shop.connection)

    async def both(context: Any, params: Any) -> ElicitResult:
        if isinstance(params, ElicitRequestURLParams):
            return await person(context, params)
        clock.advance(901)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.sweep)
        await anyio.to_thread.run_sync(shop.connection.ledger.writer.ask, shop.consumer.charge(5_000))
        return ElicitResult(action="accept", content={"city": "Oslo"})

    async with Client(server, mode=MODERN, elicitation_callback=both) as client:
        result = await client.call_tool("ask", {}, meta=shop.meta())
    assert text_of(result) == "done"
    assert seen == [(None, []), ("mine", ["city"])]
    assert len(person.asked) == 1
    assert shop.journal() == ["HOLD", "EXPIRE", "CHARGE", "HOLD", "CAPTURE"]


# Over HTTP, where the channels differ.


@asynccontextmanager
async def served(server: MCPServer[Any], shop: Shop, person: Person, mode: Any, **options: Any) -> AsyncGenerator[Client]:
    app = server.streamable_http_app(**options)
    headers = {"X-Payre-Key": shop.consumer.key.text}
    with closing(listen()) as listener:
        async with (
            serving(app, listener),
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE_S) as http,
            Client(
                streamable_http_client(f"{origin(listener)}/mcp", http_client=http), mode=mode, elicitation_callback=person
            ) as client,
        ):
            yield client


ROWS: list[Any] = [
    ("auto", {}, True),
    ("auto", {"json_response": True}, True),
    ("auto", {"stateless_http": True}, True),
    ("legacy", {}, True),
    ("legacy", {"json_response": True}, False),
    ("legacy", {"stateless_http": True}, False),
    ("legacy", {"stateless_http": True, "json_response": True}, False),
]
"""Era, how the server serves, and whether its caller can be asked: the era before needs a channel back."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("mode", "options", "asks"), ROWS)
async def test_over_http_who_can_be_asked_is_asked_and_all_others_read_the_refusal(
    shop: Shop, mode: Any, options: dict[str, bool], asks: bool
) -> None:
    person = Person(shop.connection)
    async with served(selling(shop), shop, person, mode, **options) as client:
        result = await client.call_tool("forecast", {"city": "Oslo"})
    assert len(person.asked) == asks
    if asks:
        assert "dev.payre/receipt" in meta_of(result)
        assert spent(shop) == PRICE
    else:
        assert code_of(result) == "insufficient_balance"
        assert facts_of(result)["top_up_url"] in text_of(result)
        assert shop.journal() == []
