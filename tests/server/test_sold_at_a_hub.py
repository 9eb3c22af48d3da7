"""A paid server whose ledger is a hub: what its start says and refuses, and a call from end to end."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from mcp import Client

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.dev.web import listen
from payre_mcp.errors import PayreError, SettingsInvalid, Unauthorized
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.server.extension import Payre
from payre_mcp.server.paid_server import PaidMCPServer
from tests.fakes import Funded
from tests.hubs import Hub, running_hub
from tests.server.conftest import Shop, code_of, facts_of, meta_of, text_of


@pytest.fixture
def hub(connection: Connection) -> Iterator[Hub]:
    with running_hub(connection) as hub:
        yield hub


def atlas(payre: Payre) -> PaidMCPServer:
    server = PaidMCPServer("atlas", payre=payre)

    @server.tool(price="0.005")
    def locate(city: str) -> str:
        return f"{city}: 59.9 N"

    @server.tool(price="2")
    def survey(city: str) -> str:
        return city

    return server


async def refusal_to_start(payre: Payre) -> PayreError:
    """Why a server does not start, whatever the client wraps it in."""
    atlas(payre)
    with pytest.raises(PayreError) as caught:
        async with payre.running():
            pass
    return caught.value


async def test_a_call_is_charged_at_the_hub_and_comes_with_its_receipt(shop: Shop, hub: Hub) -> None:
    async with Client(atlas(Payre(hub.url, secret_key=hub.secret_key))) as client:
        result = await shop.call(client, "locate")
        assert text_of(result) == "Oslo: 59.9 N"
        assert shop.receipt(result).amount_micros == 5_000
        assert "balance" not in str(meta_of(result))
    assert shop.spent() == 5_000


async def test_a_caller_without_enough_money_reads_the_price_and_how_to_pay(shop: Shop, hub: Hub) -> None:
    async with Client(atlas(Payre(hub.url, secret_key=hub.secret_key))) as client:
        result = await shop.call(client, "survey")
    assert code_of(result) == "insufficient_balance"
    assert facts_of(result)["price_micros"] == 2_000_000
    assert "$2.00" in text_of(result)
    assert shop.spent() == 0


async def test_a_caller_whose_key_is_wrong_reads_that_from_the_hub(shop: Shop, hub: Hub) -> None:
    async with Client(atlas(Payre(hub.url, secret_key=hub.secret_key))) as client:
        result = await shop.call(client, "locate", key=new_key(Role.CONSUMER, Mode.TEST).text)
    assert code_of(result) == "invalid_api_key"


async def test_a_server_with_a_wrong_secret_key_does_not_start(hub: Hub) -> None:
    refusal = await refusal_to_start(Payre(hub.url, secret_key=new_key(Role.DEVELOPER, Mode.TEST).text))
    assert isinstance(refusal, Unauthorized)
    assert "secret key (pyr_sk_)" in refusal.message


async def test_a_server_whose_hub_is_down_starts_gives_what_is_free_and_sells_once_the_hub_is_there(
    shop: Shop, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(listen()) as free:
        port = int(free.getsockname()[1])
    directory = shop.connection.ledger.directory
    secret_key = directory.create_key(Role.DEVELOPER, directory.sole_developer().id).text
    server = atlas(Payre(f"http://127.0.0.1:{port}", secret_key=secret_key, clock=clock))

    @server.tool()
    def legend() -> str:
        return "blue: water"

    async with Client(server) as client:
        assert "priced calls are refused until the ledger can be reached" in caplog.text
        assert text_of(await client.call_tool("legend", {})) == "blue: water"
        for _ in range(2):
            assert code_of(await shop.call(client, "locate")) == "payre_unavailable"
        with running_hub(shop.connection, port=port):
            clock.advance(1)
            assert not (await shop.call(client, "locate")).is_error
    assert shop.spent() == 5_000


async def test_a_hub_without_a_secret_key_is_a_setting_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAYRE_SECRET_KEY", raising=False)
    refusal = await refusal_to_start(Payre("https://hub.example"))
    assert isinstance(refusal, SettingsInvalid)
    assert "PAYRE_SECRET_KEY" in refusal.message


async def test_a_secret_key_without_a_hub_is_a_setting_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_SECRET_KEY", new_key(Role.DEVELOPER, Mode.TEST).text)
    monkeypatch.setenv("PAYRE_URL", "sqlite:///payre.db")
    refusal = await refusal_to_start(Payre())
    assert isinstance(refusal, SettingsInvalid)
    assert "PAYRE_URL" in refusal.message


async def test_the_key_of_a_hub_may_come_from_the_settings(
    shop: Shop, hub: Hub, consumer: Funded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAYRE_SECRET_KEY", hub.secret_key)
    async with Client(atlas(Payre(hub.url))) as client:
        assert not (await shop.call(client, "locate")).is_error
    told = capfd.readouterr().err
    assert f"payre: charges go to the hub at {hub.url} as pyr_sk_test_..." in told
    assert hub.secret_key not in told
