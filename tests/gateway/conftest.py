"""The gateway runs on both databases."""

from tests.both_databases import ledger_url

__all__ = ["ledger_url"]
