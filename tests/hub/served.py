"""`payre hub` as a process of its own, with a developer and a consumer who has $5.00."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from payre_mcp.connection import open_ledger
from payre_mcp.keys import Role
from payre_mcp.ledger.audit import AuditReport
from tests.fakes import fund

ROOT = Path(__file__).parents[2]
PAYRE = [sys.executable, "-m", "payre_mcp"]


@dataclass
class Served:
    """A hub that runs, or has run."""

    data: Path
    url: str
    secret_key: str
    consumer_key: str
    process: subprocess.Popen[str]

    def client(self, key: str = "", **options: Any) -> httpx2.Client:
        """A client with the developer's key, or with this one."""
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key or self.secret_key}"}, **options)

    def stop(self) -> str:
        """Tell it to stop and wait until it has; what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> str:
        """Wait until it has stopped, as it should."""
        _, errors = self.process.communicate(timeout=40)
        assert self.process.returncode == 0, errors
        return errors

    def audit(self) -> AuditReport:
        """The audit of its ledger."""
        connection = open_ledger(f"sqlite:///{self.data / 'payre.db'}")
        try:
            return connection.audit()
        finally:
            connection.close()


def seed(data: Path) -> tuple[str, str]:
    """A developer's key and the key of a consumer with $5.00, in a new ledger."""
    connection = open_ledger(f"sqlite:///{data / 'payre.db'}")
    try:
        directory = connection.ledger.directory
        secret = directory.create_key(Role.DEVELOPER, directory.create_developer("ann").id)
        return secret.text, fund(connection.ledger, 5_000_000).key.text
    finally:
        connection.close()


@contextlib.contextmanager
def serving_hub(data: Path, *options: str, **environ: str) -> Generator[Served]:
    """A hub over a new ledger in `data`, until the block ends."""
    secret, consumer = seed(data)
    environment = {**os.environ, **environ}  # noqa: TID251 - what the tests run in
    process = subprocess.Popen(
        [*PAYRE, "hub", "--data", str(data), "--port", "0", "--json", *options], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Served(data, json.loads(line)["hub"], secret, consumer, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
