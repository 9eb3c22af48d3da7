"""An open ledger, on whatever database: what gateways, wallets and commands are made of."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sqlalchemy as sa

from payre_mcp.clock import Clock
from payre_mcp.errors import PayreUnavailable
from payre_mcp.ids import IdFactory
from payre_mcp.ledger.audit import AuditReport, audit
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.receipts import KeyRing
from payre_mcp.storage.directory import SqlDirectory
from payre_mcp.storage.inbox import SqlInbox
from payre_mcp.storage.journal import Journal
from payre_mcp.storage.migrate import HEAD
from payre_mcp.storage.payments import SqlPayments
from payre_mcp.storage.readers import Reader
from payre_mcp.storage.rollup import roll_up
from payre_mcp.storage.snapshot import Snapshot


@dataclass(frozen=True)
class OpenLedger(ABC):
    """Everything that a local gateway is made of. `close` it in the process that opened it."""

    clock: Clock
    issuer: str
    engine: sa.Engine
    reader: Reader
    writer: LedgerWriter
    journal: Journal
    directory: SqlDirectory
    payments: SqlPayments
    inbox: SqlInbox
    ring: KeyRing
    ids: IdFactory

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, for `payre_mcp.connection.open_ledger`. May hold a password."""

    @property
    @abstractmethod
    def parts(self) -> int:
        """Into how many parts its consumers are dealt."""

    @abstractmethod
    def snapshot(self, part: int) -> AbstractContextManager[Snapshot]:
        """One part as it stands now, for as long as the block lasts."""

    @abstractmethod
    def lease(self, name: str, seconds: float) -> bool:
        """Whether this process is the one that does some work now, of all that have the ledger open."""

    def roll_up(self) -> int:
        """Sum up what developers took, as far as it is old enough; answers how many rows that were."""
        return roll_up(self.engine, self.reader, self.clock.now_us())

    def audit(self) -> AuditReport:
        """Check every money invariant, part by part, each as it stands when its turn comes."""
        report = AuditReport()
        for part in range(self.parts):
            with self.snapshot(part) as snapshot:
                report.add(audit(snapshot, self.clock.now_us()))
        return report

    def check_schema(self) -> None:
        """Raise `PayreUnavailable` unless the database answers, and has the tables of this version."""
        if self.journal.schema() != [HEAD]:
            raise PayreUnavailable("the payment ledger's database has the tables of another version of payre_mcp")

    def close(self) -> None:
        """Finish what is queued and let go of the database."""
        self.journal.close()
        self.directory.close()
        self.payments.close()
        self.inbox.close()
        self.writer.close()  # the last one out of a SQLite file clears its log away, which no reader may
