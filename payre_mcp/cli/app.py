"""Every command of `payre` with its options. The work is in the module of the command's own name.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 failed; 2 usage or settings; 3 the key was refused;
4 too little money; 5 the ledger cannot be reached; 130 interrupted.
"""

from pathlib import Path
from typing import Annotated

import typer

from payre_mcp.cli import border
from payre_mcp.cli.command import Consumer, Data, Json, Url
from payre_mcp.cli.command import run as _run

app = typer.Typer(name="payre", no_args_is_help=True, help="Payments for MCP servers: prices, balances, receipts.")
keys = typer.Typer(no_args_is_help=True, help="Make, list, limit, rotate and revoke keys of a ledger.")
app.add_typer(keys, name="keys")
developers = typer.Typer(no_args_is_help=True, help="Make and list the developers of a hub.")
app.add_typer(developers, name="developers")
pricing = typer.Typer(no_args_is_help=True, help="Check price files and quote calls from them.")
app.add_typer(pricing, name="pricing")
db = typer.Typer(no_args_is_help=True, help="Upgrade, check and back up a ledger's database; prepare one on PostgreSQL.")
app.add_typer(db, name="db")
for name, group in border.GROUPS.items():
    app.add_typer(group, name=name)

LimitCall = Annotated[str | None, typer.Option(metavar="USD", help="The most that one call may cost.")]
LimitDay = Annotated[str | None, typer.Option(metavar="USD", help="The most that it may spend in a day (UTC).")]
LimitMonth = Annotated[str | None, typer.Option(metavar="USD", help="The most that it may spend in a month (UTC).")]
LimitTool = Annotated[list[str] | None, typer.Option(metavar="NAME=USD", help="The most per day for one tool; may be repeated.")]


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
def hub(
    data: Data = None,
    url: Annotated[str | None, typer.Option(help="The ledger's address instead of its folder.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; anything but loopback needs PAYRE_ALLOWED_HOSTS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes any free one.")] = 8080,
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="How clients reach it, for links.")] = None,
    json: Json = False,
) -> None:
    """Serve one ledger to many developers over HTTP: the API, the wallet, the pages of top-up links."""
    _run("hub", data=data, url=url, host=host, port=port, base_url=base_url, json=json)


@developers.command("create")
def create_developer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who they are.")], data: Data = None, json: Json = False
) -> None:
    """Make a developer with a secret key and show it once."""
    _run("developers", "create", name=name, data=data, json=json)


@developers.command("list")
def list_developers(data: Data = None, json: Json = False) -> None:
    """List all developers."""
    _run("developers", "show", data=data, json=json)


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
    stripe: Annotated[bool, typer.Option("--stripe", help="Compare what crossed the border with Stripe, too.")] = False,
    json: Json = False,
) -> None:
    """Rebuild every balance from the journal and compare; exit 1 when an invariant is broken."""
    _run("audit", data=data, url=url, stripe=stripe, json=json)


@app.command()
def verify(
    receipt: Annotated[str, typer.Argument(metavar="RECEIPT|FILE|-", help="A receipt, a file with one, or - for stdin.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Say whether this ledger signed a receipt, and what it says; exit 1 when it did not."""
    _run("verify", receipt=receipt, data=data, json=json)


@app.command()
def doctor(
    data: Data = None,
    online: Annotated[bool, typer.Option("--online", help="Ask Stripe and the database's server, too.")] = False,
    json: Json = False,
) -> None:
    """Check SQLite, settings, keys, the ledger and its payments; exit 1 when something needs attention."""
    _run("doctor", data=data, online=online, json=json)


@keys.command("create")
def create_key(
    data: Data = None,
    consumer: Consumer = None,
    new: Annotated[bool, typer.Option("--new", help="Make a new consumer for it.")] = False,
    label: Annotated[str, typer.Option(help="A name to know it by.")] = "",
    server: Annotated[str | None, typer.Option(metavar="NAME", help="Bind it to this server of yours.")] = None,
    expires_days: Annotated[int, typer.Option(min=0, metavar="N", help="For how many days it works; 0 is for good.")] = 0,
    limit_call: LimitCall = None,
    limit_day: LimitDay = None,
    limit_month: LimitMonth = None,
    limit_tool: LimitTool = None,
    json: Json = False,
) -> None:
    """Make a consumer key and show it once."""
    limits = {"call": limit_call, "day": limit_day, "month": limit_month, "tools": limit_tool}
    _run(
        "keys", "create", data=data, consumer=consumer, new=new, label=label, server=server, expires_days=expires_days,
        limits=limits, json=json,
    )  # fmt: skip


@keys.command("list")
def list_keys(data: Data = None, json: Json = False) -> None:
    """List all keys, without their secrets."""
    _run("keys", "list_all", data=data, json=json)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY_ID")], data: Data = None, json: Json = False) -> None:
    """Refuse a key from now on."""
    _run("keys", "revoke", key_id=key_id, data=data, json=json)


@keys.command("limits")
def limit_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID")],
    limit_call: LimitCall = None,
    limit_day: LimitDay = None,
    limit_month: LimitMonth = None,
    limit_tool: LimitTool = None,
    none: Annotated[bool, typer.Option("--none", help="Clear the limits that there are first.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show what a key may spend, or change the limits that are named."""
    limits = {"call": limit_call, "day": limit_day, "month": limit_month, "tools": limit_tool}
    _run("keys", "limit", key_id=key_id, limits=limits, none=none, data=data, json=json)


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID")],
    overlap_hours: Annotated[float, typer.Option(min=0, metavar="N", help="How long the old key goes on.")] = 24,
    data: Data = None,
    json: Json = False,
) -> None:
    """Make a new key in place of this one, with the same limits and what was spent of them."""
    _run("keys", "rotate", key_id=key_id, overlap_hours=overlap_hours, data=data, json=json)


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


@db.command("upgrade")
def upgrade_database(data: Data = None, url: Url = None, json: Json = False) -> None:
    """Bring the tables of a ledger to this version; stop what uses it before."""
    _run("db", "upgrade", data=data, url=url, json=json)


@db.command("check")
def check_database(data: Data = None, url: Url = None, json: Json = False) -> None:
    """Check a ledger's tables and what its server promises; exit 1 when something needs attention."""
    _run("db", "check", data=data, url=url, json=json)


@db.command("backup")
def backup_database(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Copy a ledger that may be in use into a new file, as it stands now."""
    _run("db", "backup", file=file, data=data, url=url, json=json)


@db.command("role")
def print_role(name: Annotated[str, typer.Argument(metavar="ROLE", help="The role's name.")]) -> None:
    """Print the SQL that gives a role the rights to serve, and no more."""
    _run("db", "role", name=name)


@db.command("distribute")
def distribute_database(
    url: Url = None, shards: Annotated[int, typer.Option(help="Into how many pieces.")] = 32, json: Json = False
) -> None:
    """Spread the money tables over the machines of a Citus cluster, by part."""
    _run("db", "distribute", url=url, shards=shards, json=json)


@db.command("receipt-key")
def print_receipt_key(json: Json = False) -> None:
    """Print a new key for PAYRE_RECEIPT_KEYS, which a ledger on PostgreSQL needs."""
    _run("db", "receipt_key", json=json)
