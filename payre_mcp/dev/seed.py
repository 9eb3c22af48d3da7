"""The test consumer and the keys of a development ledger, the same again at every start."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio.to_thread

from payre_mcp.connection import Connection
from payre_mcp.keys import Role
from payre_mcp.money import Money

_FILE = "dev-keys.json"


@dataclass(frozen=True)
class Seed:
    """The keys of a development ledger. They are stored in its folder (mode 0600): they open test money alone."""

    consumer_key: str
    developer_key: str


async def seed_ledger(data: Path, connection: Connection, balance: Money) -> Seed:
    """The keys in `data`; where there are none, a new consumer with `balance`, a key of theirs and one of the developer's."""
    file = data / _FILE
    if file.exists():
        return Seed(**json.loads(file.read_text()))
    seed, consumer_id = await anyio.to_thread.run_sync(_create, connection)
    if balance:
        await connection.top_ups.credit_test_money(consumer_id, balance)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(asdict(seed), out)
    return seed


def _create(connection: Connection) -> tuple[Seed, int]:
    directory = connection.ledger.directory
    consumer = directory.create_consumer("dev")
    consumer_key = directory.create_key(Role.CONSUMER, consumer.id, label="payre dev")
    developer_key = directory.create_key(Role.DEVELOPER, directory.sole_developer().id, label="payre dev")
    return Seed(consumer_key.text, developer_key.text), consumer.id
