"""`payre developers`: for whoever keeps the ledger of a hub."""

from pathlib import Path

from payre_mcp.cli.output import columns, emit, open_chosen_ledger
from payre_mcp.ids import format_id
from payre_mcp.keys import Role


def create(*, name: str, data: Path | None, json: bool) -> None:
    """Make a developer and a secret key."""
    connection = open_chosen_ledger(data)
    try:
        directory = connection.ledger.directory
        developer = directory.create_developer(name)
        key = directory.create_key(Role.DEVELOPER, developer.id, label=name)
        developer_id = format_id("dev", developer.id)
        lines = [key.text, f"secret key of developer {developer_id}; shown only now"]
        emit({"developer_key": key.text, "developer": developer_id}, lines, as_json=json)
    finally:
        connection.close()


def show(*, data: Path | None, json: bool) -> None:
    """List all developers, and how their accounts at Stripe stand."""
    connection = open_chosen_ledger(data)
    try:
        found = connection.ledger.directory.developers()
        banks = {payee.developer_id: payee.state for payee in connection.ledger.payments.payees()}
        rows = [
            {"id": format_id("dev", each.id), "name": each.name, "bank": banks.get(each.id, "not connected")} for each in found
        ]
        lines = columns([(row["id"], row["name"], f"bank {row['bank']}") for row in rows]) or ["No developers."]
        emit(rows, lines, as_json=json)
    finally:
        connection.close()
