"""The commands of money that crosses the ledger's border, with their options: `stripe`, `payouts`, `top-ups`, `charges`."""

# ruff: noqa: FBT002 - options of commands

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from payre_mcp.cli.command import Data, Developer, Json, Url, run

stripe = typer.Typer(no_args_is_help=True, help="Set Stripe's webhooks up, find what none of them brought, look at its news.")
payouts = typer.Typer(no_args_is_help=True, help="Pay developers their earnings: onboarding, what is due, the run.")
top_ups = typer.Typer(no_args_is_help=True, help="Top-ups by card: what there is, unspent money back to cards, recharges.")
charges = typer.Typer(no_args_is_help=True, help="Give charges back to who paid them.")

GROUPS: Mapping[str, typer.Typer] = {"stripe": stripe, "payouts": payouts, "top-ups": top_ups, "charges": charges}

Limit = Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="The newest so many.")]
ConsumerId = Annotated[str, typer.Argument(metavar="CON_ID", help="The consumer.")]


@stripe.command("setup")
def set_up_stripe(
    base_url: Annotated[str, typer.Option("--base-url", metavar="URL", help="How Stripe reaches the hub: https://pay.example.")],
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Make the webhooks that are missing at Stripe and print their secrets, once, as settings."""
    run("stripe", "set_up", base_url=base_url, data=data, url=url, json=json)


@stripe.command("reconcile")
def reconcile_stripe(data: Data = None, url: Url = None, json: Json = False) -> None:
    """Find at Stripe what no webhook brought and book it; exit 1 when something needs a person."""
    run("stripe", "reconcile", data=data, url=url, json=json)


@stripe.command("events")
def list_events(
    state: Annotated[
        Literal["parked", "waiting", "ignored", "done", "all"], typer.Option(help="What became of them.")
    ] = "parked",
    limit: Limit = 50,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """List Stripe's news, by default what was set aside for a person to look at."""
    run("stripe", "events", state=state, limit=limit, data=data, url=url, json=json)


@stripe.command("replay")
def replay_event(
    event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Its id: evt_...")],
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Handle one event again; exit 1 when it still cannot be. What it is about is booked once all the same."""
    run("stripe", "replay", event_id=event_id, data=data, url=url, json=json)


@payouts.command("list")
def list_payouts(
    developer: Annotated[str | None, typer.Option(metavar="DEV_ID", help="Whose alone.")] = None,
    limit: Limit = 50,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """List payouts, the newest first."""
    run("payouts", "show", developer=developer, limit=limit, data=data, url=url, json=json)


@payouts.command("due")
def list_due(
    developer: Annotated[str | None, typer.Option(metavar="DEV_ID", help="Whose alone.")] = None,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Say what could be paid out now, to whom, and to whom it cannot be."""
    run("payouts", "due", developer=developer, data=data, url=url, json=json)


@payouts.command("run")
def run_payouts(data: Data = None, url: Url = None, json: Json = False) -> None:
    """Pay everybody who is due, now; payouts that are under way go on."""
    run("payouts", "pay", data=data, url=url, json=json)


@payouts.command("connect")
def connect_developer(
    email: Annotated[str, typer.Option(metavar="ADDRESS", help="Where Stripe writes to them.")],
    country: Annotated[str, typer.Option(metavar="CC", help="Where they are, in two letters: US.")],
    developer: Developer = None,
    return_url: Annotated[
        str | None, typer.Option("--return-url", metavar="URL", help="Where they go afterwards; by default their page at Stripe.")
    ] = None,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print a link, good once and for minutes, on which a developer connects their bank account."""
    run(
        "payouts", "connect", developer=developer, email=email, country=country, return_url=return_url, data=data, url=url,
        json=json,
    )  # fmt: skip


@top_ups.command("list")
def list_top_ups(
    consumer: Annotated[str | None, typer.Option(metavar="CON_ID", help="Whose alone.")] = None,
    limit: Limit = 50,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """List top-ups by card, recharges, and what went back of them, the newest first."""
    run("refunds", "show", consumer=consumer, limit=limit, data=data, url=url, json=json)


@top_ups.command("refund")
def refund_top_ups(
    consumer: ConsumerId,
    amount: Annotated[str | None, typer.Option(metavar="USD", help="So much; by default all that can go back.")] = None,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Send unspent money back to the cards that paid it; processing fees stay paid."""
    run("refunds", "give_back", consumer=consumer, amount=amount, data=data, url=url, json=json)


@top_ups.command("recharge")
def show_recharge(
    consumer: ConsumerId,
    off: Annotated[bool, typer.Option("--off", help="No more of it: the card is forgotten, at Stripe too.")] = False,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show when a consumer's saved card is charged by itself, or turn it off. Only its owner turns it on."""
    run("refunds", "recharge", consumer=consumer, off=off, data=data, url=url, json=json)


@charges.command("refund")
def refund_charge(
    charge: Annotated[str, typer.Argument(metavar="CHARGE", help="Its id: chg_...")],
    amount: Annotated[str | None, typer.Option(metavar="USD", help="So much of it; by default all.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="A name of yours: asked again by it, it is refunded once.")
    ] = None,
    data: Data = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Give a charge back to its consumer's balance; the developer gives their part, the platform its fee."""
    run("refunds", "refund_charge", charge=charge, amount=amount, key=key, data=data, url=url, json=json)
