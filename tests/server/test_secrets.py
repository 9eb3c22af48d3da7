"""A key is used and never shown: not in our logs, answers, errors or database."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server.mcpserver.exceptions import ToolError

from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.storage.library import connect
from tests.server.conftest import Shop

STRANGERS = new_key(Role.CONSUMER, Mode.TEST).text
SECRETS = (new_key(Role.DEVELOPER, Mode.TEST).text, new_key(Role.CONSUMER, Mode.LIVE).text, STRANGERS, STRANGERS[:-1] + "?")


async def sell(city: str) -> str:
    return city


async def fail(city: str) -> str:
    raise ToolError(f"no {city}")


def everything_in(path: Path) -> list[str]:
    database = connect(path, read_only=True)
    tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
    rows = [repr(row) for name in tables for row in database.execute(f"select * from {name}")]
    database.close()
    return rows


async def test_no_key_is_logged_answered_or_stored(
    shop: Shop, mode: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    own = shop.consumer.key.text
    with caplog.at_level(logging.DEBUG):
        async with Client(shop.server(sell, fail), mode=mode) as client:
            results = [await shop.call(client, tool, key=key) for key in (own, *SECRETS) for tool in ("sell", "fail")]
    told = [result.model_dump_json() for result in results]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("payre_mcp")]
    stored = everything_in(shop.connection.ledger.path)
    printed = capfd.readouterr()
    assert any(own[-4:] in row for row in stored)
    for text in (*told, *logged, *stored, printed.out, printed.err, repr(shop.consumer.key)):
        for secret in (own, *SECRETS):
            assert secret not in text
    assert len([result for result in results if not result.is_error]) == 1
