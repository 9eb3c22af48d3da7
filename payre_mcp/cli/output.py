"""Printing: one JSON document for machines, or lines for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from payre_mcp.connection import Connection, open_ledger
from payre_mcp.keys import Mode
from payre_mcp.logs import configure_logs
from payre_mcp.receipts import KeyRing
from payre_mcp.settings import Settings, load_settings


def emit(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print `document` as one line of JSON, or `lines`, to stdout."""
    text = json.dumps(document) if as_json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """Say something beside the data, on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def command_settings() -> Settings:
    """The settings of a command that runs now; its logs go to stderr as they say."""
    settings = load_settings()
    configure_logs(settings.log_level or "WARNING", settings.log_format)
    return settings


def ledger_url(data: Path | None, settings: Settings) -> str:
    """The ledger that a command means: the one in `--data`, else the settings'."""
    return settings.ledger_url if data is None else f"sqlite:///{data / 'payre.db'}"


def open_chosen_ledger(data: Path | None, *, top_up_page: str | None = None) -> Connection:
    """Open the ledger that a command means, with the settings' fee and receipt keys."""
    settings = command_settings()
    return open_ledger(
        ledger_url(data, settings), fee_bps=settings.fee_bps, ring=receipt_ring(settings), top_up_page=top_up_page,
        free_credit=settings.free_credit_usd, mode=Mode(settings.mode),
    )  # fmt: skip


def receipt_ring(settings: Settings) -> KeyRing | None:
    """The receipt keys that the settings give, if they do."""
    return None if settings.receipt_keys is None else KeyRing.parse(settings.receipt_keys.get_secret_value())
