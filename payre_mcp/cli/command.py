"""What commands share: the options that many of them have, and how one is run."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The ledger's folder; by default the settings say.")]
Url = Annotated[str | None, typer.Option(metavar="URL", help="A database: postgresql://user@host/name, or sqlite:///payre.db.")]
Consumer = Annotated[str | None, typer.Option("--consumer", metavar="CON_ID", help="Whose; not needed where there is one.")]
Developer = Annotated[str | None, typer.Option("--developer", metavar="DEV_ID", help="Whose; not needed where there is one.")]


def run(module: str, function: str = "run", **options: Any) -> None:
    """Load the command's module and run it; a `PayreError` becomes a sentence and an exit code."""
    from payre_mcp.errors import PayreError  # noqa: PLC0415 - see the package's docstring

    try:
        code = getattr(import_module(f"payre_mcp.cli.{module}"), function)(**options)
    except PayreError as error:
        sys.stderr.write(f"payre: {error.message} ({error.code})\n")
        raise typer.Exit(_exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(code or 0)


def _exit_code(error: Exception) -> int:
    from payre_mcp.errors import KeyRejected, PaymentRequired, PayreUnavailable, SettingsInvalid  # noqa: PLC0415

    codes = {SettingsInvalid: 2, KeyRejected: 3, PaymentRequired: 4, PayreUnavailable: 5}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
