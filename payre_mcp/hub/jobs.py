"""What a hub does beside answering: sums up takings, and audits its own ledger. Of several hubs one does it for all.

Expired holds and old results are the writer's own to clear away, every few seconds; see `payre_mcp.ledger.writer`.
"""

import logging
import time

import anyio
import anyio.to_thread

from payre_mcp.errors import PayreError
from payre_mcp.hub.metrics import Meters
from payre_mcp.storage.ledger import OpenLedger

logger = logging.getLogger(__name__)

EVERY_S = 60.0
AUDIT_EVERY_S = 3600.0
LEASE_S = 3 * EVERY_S
"""A hub that stops is followed by another after this time at the latest."""


class Jobs:
    """The jobs of one hub, each in turn."""

    def __init__(self, ledger: OpenLedger, meters: Meters) -> None:
        self._ledger, self._meters = ledger, meters
        self._next_audit = 0.0

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await anyio.to_thread.run_sync(self.run_once)
            await anyio.sleep(EVERY_S)

    def run_once(self) -> None:
        """Do what is due now, if it is this hub that does it. Trouble is told to the log and tried again."""
        try:
            if not self._ledger.lease("jobs", LEASE_S):
                return
            self._ledger.roll_up()
            if time.monotonic() >= self._next_audit:
                self._audit()
                self._next_audit = time.monotonic() + AUDIT_EVERY_S
        except PayreError as error:
            logger.warning("a job of the hub waits for the next minute: %s", error.message)
        except Exception:
            logger.exception("a job of the hub failed; it is tried again in a minute")

    def _audit(self) -> None:
        report = self._ledger.audit()
        self._meters.audited(len(report.violations))
        for violation in report.violations:
            logger.critical("the ledger is broken: %s", violation)
