"""Every command of `payre` with its options. The work is in the module of the command's own name.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 failed; 2 usage or settings; 3 the key was refused;
4 too little money; 5 the ledger cannot be reached; 130 interrupted.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(name="payre", no_args_is_help=True, help="Payments for MCP servers: prices, balances, receipts.")
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys of a ledger.")
app.add_typer(keys, name="keys")
pricing = typer.Typer(no_args_is_help=True, help="Check price files and quote calls from them.")
app.add_typer(pricing, name="pricing")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The ledger's folder; by default the settings say.")]
Consumer = Annotated[str | None, typer.Option("--consumer", metavar="CON_ID", help="Whose; not needed where there is one.")]


def main() -> None:
    """Run `payre`."""
    app()


@app.command()
def demo(json: Json = False) -> None:
    """Tell the whole story on a fresh ledger and check it: exit 0 only if everything held."""
    _run("demo", json=json)


@app.command()
def dev(
    server: Annotated[str | None, typer.Argument(metavar="[FILE[:OBJECT]]", help="Your server; an example without it.")] = None,
    port: Annotated[int, typer.Option(help="The port on loopback; 0 takes any free one.")] = 8402,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the ledger here; otherwise it goes with the process.")
    ] = None,
    balance: Annotated[str, typer.Option(metavar="USD", help="Test money of a new consumer.")] = "5",
    json: Json = False,
) -> None:
    """Serve a paid server, its wallet and its pages on loopback, with a funded test consumer."""
    _run("dev", server=server, port=port, data=data, balance=balance, json=json)


@app.command()
def wallet(data: Data = None) -> None:
    """Serve the wallet to an MCP client on stdio; PAYRE_KEY says whose."""
    _run("wallet", data=data)


@app.command()
def balance(data: Data = None, consumer: Consumer = None, json: Json = False) -> None:
    """Show a consumer's balance."""
    _run("accounts", "show_balance", data=data, consumer=consumer, json=json)


@app.command("top-up")
def top_up(
    amount: Annotated[str, typer.Argument(metavar="USD", help="Dollars of test money.")],
    data: Data = None,
    consumer: Consumer = None,
    json: Json = False,
) -> None:
    """Add test money to a consumer's balance."""
    _run("accounts", "top_up", amount=amount, data=data, consumer=consumer, json=json)


@app.command()
def audit(
    data: Data = None,
    url: Annotated[str | None, typer.Option(help="The ledger's address instead of its folder.")] = None,
    json: Json = False,
) -> None:
    """Rebuild every balance from the journal and compare; exit 1 when an invariant is broken."""
    _run("audit", data=data, url=url, json=json)


@app.command()
def verify(
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT|FILE|-", help="A receipt, a file with one, or - for stdin.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Say whether this ledger signed a receipt, and what it says; exit 1 when it did not."""
    _run("verify", receipt=receipt, data=data, json=json)


@app.command()
def doctor(data: Data = None, json: Json = False) -> None:
    """Check SQLite, settings, keys and the ledger; exit 1 when something needs attention."""
    _run("doctor", data=data, json=json)


@keys.command("create")
def create_key(
    data: Data = None,
    consumer: Consumer = None,
    new: Annotated[bool, typer.Option("--new", help="Make a new consumer for it.")] = False,
    label: Annotated[str, typer.Option(help="A name to know it by.")] = "",
    json: Json = False,
) -> None:
    """Make a consumer key and show it once."""
    _run("accounts", "create_key", data=data, consumer=consumer, new=new, label=label, json=json)


@keys.command("list")
def list_keys(data: Data = None, json: Json = False) -> None:
    """List all keys, without their secrets."""
    _run("accounts", "list_keys", data=data, json=json)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY_ID")], data: Data = None, json: Json = False) -> None:
    """Refuse a key from now on."""
    _run("accounts", "revoke_key", key_id=key_id, data=data, json=json)


PriceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A price file in YAML.")]


@pricing.command("check")
def check_prices(file: PriceFile, json: Json = False) -> None:
    """Say everything that is wrong with a price file, with lines; exit 1 when anything is."""
    _run("pricing", "check", file=file, json=json)


@pricing.command("quote")
def quote_price(
    file: PriceFile,
    tool: Annotated[str | None, typer.Option(metavar="NAME", help="The tool that is called.")] = None,
    resource: Annotated[str | None, typer.Option(metavar="URI", help="Or the resource, as it stands in the file.")] = None,
    prompt: Annotated[str | None, typer.Option(metavar="NAME", help="Or the prompt.")] = None,
    arguments: Annotated[str | None, typer.Option(metavar="JSON", help="Its arguments, as a JSON object.")] = None,
    usage: Annotated[list[str] | None, typer.Option(metavar="UNIT=N", help="What it used: tokens=800, input.tokens=800.")] = None,
    used_before: Annotated[
        list[str] | None, typer.Option(metavar="UNIT=N", help="What the consumer used before, in the window.")
    ] = None,
    json: Json = False,
) -> None:
    """Price one call line by line; without --usage, the most that it can cost."""
    named = [(kind, name) for kind, name in (("tool", tool), ("resource", resource), ("prompt", prompt)) if name is not None]
    if len(named) != 1:
        raise typer.BadParameter("name one of --tool, --resource, --prompt")
    _run(
        "pricing", "quote", file=file, target=named[0], arguments=arguments, usage=usage or (),
        used_before=used_before or (), json=json,
    )  # fmt: skip


@pricing.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a price file, for editors."""
    _run("pricing", "schema")


def _run(module: str, function: str = "run", **options: Any) -> None:
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
