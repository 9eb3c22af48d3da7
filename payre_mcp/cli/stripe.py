"""`payre stripe`: webhooks, what none of them brought, and the inbox of Stripe's news, for whoever runs the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from payre_mcp.billing.desk import Billing
from payre_mcp.billing.office import run
from payre_mcp.cli.billing import existing_ledger, when, with_billing
from payre_mcp.cli.output import columns, emit
from payre_mcp.clock import US_PER_S
from payre_mcp.errors import InvalidRequest
from payre_mcp.hub.webhooks import PATHS
from payre_mcp.payments import EventState, InboxEvent
from payre_mcp.processors.base import Endpoint, WebhookEndpoint

SETTINGS: Mapping[Endpoint, str] = {
    "platform": "PAYRE_STRIPE_WEBHOOK_SECRET", "connect": "PAYRE_STRIPE_CONNECT_SECRET", "thin": "PAYRE_STRIPE_THIN_SECRET",
}  # fmt: skip
"""What the secret of each webhook is set as."""

_COUNTED = 1_000


def set_up(*, base_url: str, data: Path | None, url: str | None, json: bool) -> None:
    """Make the webhooks that are missing."""
    address = urlsplit(base_url)
    if address.scheme not in {"http", "https"} or not address.hostname or address.query or address.fragment:
        raise InvalidRequest("--base-url is the hub's public address, such as https://pay.example; nothing was made")
    with_billing(data, url, partial(make_webhooks, base_url=base_url.rstrip("/"), as_json=json))


async def make_webhooks(billing: Billing, *, base_url: str, as_json: bool) -> None:
    """Make the webhooks that are missing, and print their secrets as settings."""
    if billing.processor.livemode and not base_url.startswith("https://"):
        raise InvalidRequest("live webhooks go to an https address; nothing was made")
    found = list[WebhookEndpoint]()
    try:
        for endpoint, path in PATHS.items():
            found += await billing.processor.set_up({endpoint: base_url + path})
    finally:  # a secret is told once: so are those of webhooks that were made before another could not be
        emit([_webhook(each) for each in found], map(_setting, found), as_json=as_json)


def reconcile(*, data: Path | None, url: str | None, json: bool) -> int:
    """Find what no webhook brought."""
    return with_billing(data, url, partial(find_all, as_json=json))


async def find_all(billing: Billing, *, as_json: bool) -> int:
    """One run of the reconciler; answers 1 when something could not be settled."""
    found = await billing.reconciler.run()
    parked = len(await run(billing.ledger.inbox.list, [EventState.PARKED], limit=_COUNTED))
    lines = [
        f"{found.events} events that no webhook had brought",
        f"{found.looked_at} payments under way, {found.moved} of them went on",
        f"{found.costs} of Stripe's fees looked at",
        *(f"PROBLEM: {problem}" for problem in found.problems),
        *([f"{parked} events are set aside for you: payre stripe events"] if parked else []),
    ]
    emit({"ok": not found.problems, **asdict(found), "parked": parked}, lines, as_json=as_json)
    return 1 if found.problems else 0


def events(*, state: str, limit: int, data: Path | None, url: str | None, json: bool) -> None:
    """List the news that came in."""
    wanted = [] if state == "all" else [EventState(state)]
    with existing_ledger(data, url) as connection:
        found = connection.ledger.inbox.list(wanted, limit=limit)
    lines = columns([_row(event) for event in found]) or ["No such events."]
    emit([_document(event) for event in found], lines, as_json=json)


def replay(*, event_id: str, data: Path | None, url: str | None, json: bool) -> int:
    """Handle one event again."""
    return with_billing(data, url, partial(handle_again, event_id=event_id, as_json=json))


async def handle_again(billing: Billing, *, event_id: str, as_json: bool) -> int:
    """Handle one event again; answers 1 when it cannot be, still."""
    event = await billing.inbox.replay(event_id)
    done = event.state in {EventState.DONE, EventState.IGNORED}
    emit(_document(event), [f"{event.id} is {event.state}{f': {event.problem}' if event.problem else ''}"], as_json=as_json)
    return 0 if done else 1


def _webhook(found: WebhookEndpoint) -> dict[str, object]:
    facts = asdict(found)
    if not facts.pop("secret"):
        return {**facts, "made": False}
    return {**facts, "made": True, "setting": SETTINGS[found.endpoint], "secret": found.secret}


def _setting(found: WebhookEndpoint) -> str:
    """A line of an environment file."""
    if found.secret:
        return f"{SETTINGS[found.endpoint]}={found.secret}"
    return f"# {found.url} was there before ({found.id}); its secret stands in Stripe's dashboard"


def _row(event: InboxEvent) -> Sequence[str]:
    tries = f"{event.tries} {'try' if event.tries == 1 else 'tries'}"
    return event.id, event.kind, event.object_id, event.state, when(event.received_at), tries, event.problem


def _document(event: InboxEvent) -> dict[str, object]:
    """Without its body, which may name people."""
    facts = event._asdict()
    del facts["body"], facts["next_try_at"]
    return {**facts, "state": str(event.state), "received_at": event.received_at // US_PER_S}
