"""From an address to a ledger: the one door between the seller's side and storage, and it opens only when asked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from payre_mcp.clock import Clock, SystemClock
from payre_mcp.directory import Developer
from payre_mcp.errors import SettingsInvalid
from payre_mcp.gateway.access import Access
from payre_mcp.gateway.base import Gateway
from payre_mcp.gateway.hub_address import HubAddress, is_hub
from payre_mcp.gateway.local import LocalGateway
from payre_mcp.gateway.local_wallet import LocalWallet
from payre_mcp.gateway.quotes import Quotes
from payre_mcp.gateway.statement import Statements
from payre_mcp.gateway.top_ups import LARGEST, SMALLEST, TopUps
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.keys import Mode
from payre_mcp.ledger.audit import AuditReport
from payre_mcp.money import ZERO, Money
from payre_mcp.receipts import KeyRing

if TYPE_CHECKING:
    from payre_mcp.storage.ledger import OpenLedger

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
DEFAULT_FEE_BPS = 300


@dataclass(frozen=True)
class Connection:
    """An open ledger from both sides. `close` lets go of it; so does `gateway.aclose()`."""

    gateway: LocalGateway
    wallet: LocalWallet
    top_ups: TopUps
    ledger: "OpenLedger"
    access: Access
    seller: Callable[[Developer], LocalGateway]
    """The gateway of one of several developers, whose calls run in other processes."""

    def audit(self) -> AuditReport:
        """Check every money invariant of this ledger, as it stands now. Blocks; the ledger goes on working."""
        return self.ledger.audit()

    def close(self) -> None:
        """Finish what is queued and let go of the files."""
        self.ledger.close()


def connect(
    url: str, *, secret_key: str | None = None, fee_bps: int = DEFAULT_FEE_BPS, ring: KeyRing | None = None,
    free_credit: Money = ZERO,
) -> Gateway:  # fmt: skip
    """Open the ledger at `url` for a seller; `sqlite:///payre.db` is made where there is none, and so are the tables of
    an empty `postgresql://` database. Blocks.

    `https://hub.example` with the developer's `secret_key` sells through a hub, which sets the fee and signs the receipts.
    A hub is reached directly: no proxy of the environment is used, and no redirect is followed.

    Raises:
        SettingsInvalid: The address is of no kind that is known, or only one of a hub's address and key was given.
    """
    if is_hub(url):
        from payre_mcp.gateway.remote import RemoteGateway  # noqa: PLC0415

        return RemoteGateway(HubAddress.parse(url, secret_key))
    if secret_key is not None:
        raise SettingsInvalid("a secret key is for a hub: set PAYRE_URL to its https address, or take PAYRE_SECRET_KEY away")
    return open_ledger(url, fee_bps=fee_bps, ring=ring, free_credit=free_credit).gateway


def open_ledger(
    url: str,
    *,
    fee_bps: int = DEFAULT_FEE_BPS,
    ring: KeyRing | None = None,
    clock: Clock | None = None,
    top_up_page: str | None = None,
    top_up_range: tuple[Money, Money] = (SMALLEST, LARGEST),
    free_credit: Money = ZERO,
    mode: Mode = Mode.TEST,
) -> Connection:
    """Open the ledger at `url` from both sides. `top_up_page` is where the caller mounts the pay page, if it does.

    `free_credit` is what a consumer's first call at each server brings them, to be spent there. `mode` is that of a new
    ledger; one that is there keeps its own.
    """
    clock = clock or SystemClock()
    ledger = _open(url, clock, ring, mode)
    statements = Statements(ledger.issuer, ledger.directory.mode, ledger.ring)
    access = Access(ledger.directory, clock)
    top_ups = TopUps(
        writer=AsyncWriter(ledger.writer), journal=ledger.journal, directory=ledger.directory,
        find_payment=ledger.payments.find, ids=ledger.ids, clock=clock, page=top_up_page, amounts=top_up_range,
    )  # fmt: skip
    quotes = Quotes(ledger.journal, clock)
    gateway_of = partial(
        LocalGateway, writer=ledger.writer, journal=ledger.journal, directory=ledger.directory, statements=statements,
        access=access, ids=ledger.ids, clock=clock, fee_bps=fee_bps, top_ups=top_ups, quotes=quotes, on_close=ledger.close,
        free_credit=free_credit if free_credit or ledger.directory.has_credit() else None,
    )  # fmt: skip
    gateway = gateway_of(developer=ledger.directory.sole_developer())
    wallet = LocalWallet(
        access=access, journal=ledger.journal, directory=ledger.directory, statements=statements, top_ups=top_ups,
        quotes=quotes, clock=clock, mode=ledger.directory.mode,
    )  # fmt: skip
    return Connection(gateway, wallet, top_ups, ledger, access, partial(_seller, gateway_of))


def is_server_url(url: str) -> bool:
    """Whether this is the address of a database on a PostgreSQL server."""
    return url.startswith(_POSTGRES)


def shown_address(url: str) -> str:
    """A ledger's address without who logs in and how, for people."""
    kind, _, rest = url.partition("://")
    return url if url.startswith(_SQLITE) or not rest else f"{kind}://{rest.rpartition('@')[2].partition('?')[0]}"


def _open(url: str, clock: Clock, ring: KeyRing | None, mode: Mode) -> "OpenLedger":
    # Storage brings SQLModel and SQLAlchemy: loaded here alone, so a seller with a remote ledger never pays for them.
    if not is_server_url(url):
        from payre_mcp.storage.embedded import open_embedded  # noqa: PLC0415

        return open_embedded(sqlite_path(url), clock, ring=ring, mode=mode)
    if find_spec("psycopg") is None:
        raise SettingsInvalid("a ledger on PostgreSQL needs psycopg: pip install 'payre-mcp[postgres]'")
    from payre_mcp.storage.server import open_server  # noqa: PLC0415

    if ring is None:
        raise SettingsInvalid(
            "a ledger on PostgreSQL keeps no receipt keys: set PAYRE_RECEIPT_KEYS, the same for every process that uses it. "
            "`payre db receipt-key` makes one"
        )
    return open_server(url, clock, ring=ring, mode=mode)


def _seller(gateway_of: Callable[..., LocalGateway], developer: Developer) -> LocalGateway:
    return gateway_of(developer=developer, calls_run_here=False)


def sqlite_path(url: str) -> Path:
    """The file behind `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        SettingsInvalid: The address is of another kind.
    """
    path = url.removeprefix(_SQLITE)
    if path == url or not path or path == ":memory:":
        raise SettingsInvalid(
            f"cannot open the ledger at {shown_address(url)!r}; write sqlite:///payre.db, or sqlite:////var/lib/payre.db for an "
            "absolute path"
        )
    return Path(path)
