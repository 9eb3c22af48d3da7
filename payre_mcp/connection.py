"""From an address to a ledger: the one door between the seller's side and storage, and it opens only when asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from payre_mcp.clock import Clock, SystemClock
from payre_mcp.errors import SettingsInvalid
from payre_mcp.gateway.access import Access
from payre_mcp.gateway.local import LocalGateway
from payre_mcp.gateway.local_wallet import LocalWallet
from payre_mcp.gateway.quotes import Quotes
from payre_mcp.gateway.statement import Statements
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.receipts import KeyRing

if TYPE_CHECKING:
    from payre_mcp.storage.embedded import EmbeddedLedger

_SQLITE = "sqlite:///"
DEFAULT_FEE_BPS = 300


@dataclass(frozen=True)
class Connection:
    """An open ledger from both sides. `close` lets go of it; so does `gateway.aclose()`."""

    gateway: LocalGateway
    wallet: LocalWallet
    top_ups: TopUps
    ledger: "EmbeddedLedger"

    def audit(self) -> AuditReport:
        """Check every money invariant of this ledger, as it stands now. Blocks; the ledger goes on working."""
        return self.ledger.audit()

    def close(self) -> None:
        """Finish what is queued and let go of the files."""
        self.ledger.close()


def connect(url: str, *, fee_bps: int = DEFAULT_FEE_BPS, ring: KeyRing | None = None) -> LocalGateway:
    """Open the ledger at `url` for a seller; `sqlite:///payre.db` is made where there is none. Blocks.

    Raises:
        SettingsInvalid: The address is of no kind that is known.
    """
    return open_ledger(url, fee_bps=fee_bps, ring=ring).gateway


def open_ledger(
    url: str,
    *,
    fee_bps: int = DEFAULT_FEE_BPS,
    ring: KeyRing | None = None,
    clock: Clock | None = None,
    top_up_page: str | None = None,
) -> Connection:
    """Open the ledger at `url` from both sides. `top_up_page` is where the caller mounts the pay page, if it does."""
    # Storage brings SQLModel and SQLAlchemy: loaded here alone, so a seller with a remote ledger never pays for them.
    from payre_mcp.storage.embedded import open_embedded  # noqa: PLC0415

    clock = clock or SystemClock()
    ledger = open_embedded(sqlite_path(url), clock, ring=ring)
    statements = Statements(ledger.issuer, ledger.directory.mode, ledger.ring)
    access = Access(ledger.directory, clock)
    top_ups = TopUps(
        writer=AsyncWriter(ledger.writer), journal=ledger.journal, directory=ledger.directory,
        ids=ledger.ids, clock=clock, page=top_up_page,
    )  # fmt: skip
    quotes = Quotes(ledger.journal, clock)
    gateway = LocalGateway(
        writer=ledger.writer, journal=ledger.journal, directory=ledger.directory, statements=statements, access=access,
        ids=ledger.ids, clock=clock, developer=ledger.directory.sole_developer(), fee_bps=fee_bps,
        top_ups=top_ups, quotes=quotes, on_close=ledger.close,
    )  # fmt: skip
    wallet = LocalWallet(
        access=access, journal=ledger.journal, directory=ledger.directory, statements=statements, top_ups=top_ups,
        quotes=quotes, mode=ledger.directory.mode,
    )  # fmt: skip
    return Connection(gateway, wallet, top_ups, ledger)


def sqlite_path(url: str) -> Path:
    """The file behind `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        SettingsInvalid: The address is of another kind.
    """
    path = url.removeprefix(_SQLITE)
    if path == url or not path or path == ":memory:":
        raise SettingsInvalid(
            f"cannot open the ledger at {url!r}; write sqlite:///payre.db, or sqlite:////var/lib/payre.db for an absolute path"
        )
    return Path(path)
