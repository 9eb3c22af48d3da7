"""Webhooks of Stripe at the hub: checked, written down and answered at once, whatever bytes they are."""

import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payre_mcp.billing.desk import Billing
from payre_mcp.connection import Connection
from payre_mcp.hub.app import hub_application
from payre_mcp.hub.webhooks import LARGEST, PATHS
from payre_mcp.money import ZERO
from payre_mcp.payments import EventState, InboxEvent
from payre_mcp.storage.library import connect
from payre_mcp.wallet.server import build_wallet
from tests.billing.till import TEN, Till, open_till
from tests.fakes import PATIENCE_S, file_of
from tests.hub.card_desk import HUB, hub_of

PLATFORM = PATHS["platform"]


@pytest.fixture
async def till(ledger_path: Path) -> AsyncGenerator[Till]:
    async with open_till(f"sqlite:///{ledger_path}") as till:
        yield till


@pytest.fixture
async def client(till: Till) -> AsyncGenerator[httpx2.AsyncClient]:
    """Stripe, before the hub."""
    async with hub_of(till) as client:
        yield client


async def paid_event(till: Till) -> str:
    """The event that says that a page was paid, as its body."""
    till.stripe.pay(await till.page_of())
    return json.dumps(till.stripe.events()[-1])


def inbox(till: Till) -> list[InboxEvent]:
    return list(till.ledger.inbox.list([], limit=100))


async def test_news_is_written_down_and_answered_and_nothing_is_done_about_it_yet(till: Till, client: httpx2.AsyncClient) -> None:
    body = await paid_event(till)
    answer = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (event,) = inbox(till)
    assert (event.kind, event.endpoint, event.state, event.body) == (
        "checkout.session.completed", "platform", EventState.WAITING, body,
    )  # fmt: skip
    assert till.balance() == ZERO
    await till.billing.inbox.work()
    assert till.balance() == TEN


async def test_news_that_comes_twice_is_answered_alike_and_kept_once(till: Till, client: httpx2.AsyncClient) -> None:
    body = await paid_event(till)
    for _ in range(3):
        answer = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
        assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert len(inbox(till)) == 1


async def test_news_of_the_other_mode_is_taken_and_set_aside(till: Till, client: httpx2.AsyncClient) -> None:
    body = json.dumps({**json.loads(await paid_event(till)), "livemode": True})
    answer = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
    assert answer.status_code == 200
    assert [event.state for event in inbox(till)] == [EventState.PARKED]


Forge = Callable[[Till, str], str | None]
FORGERIES: dict[str, Forge] = {
    "no signature": lambda till, body: None,
    "an empty one": lambda till, body: "",
    "one that is none": lambda till, body: "t=1,v1=\u00e9",
    "of other bytes": lambda till, body: till.sign(body + " "),
    "of another secret": lambda till, body: till.sign(body, secret="whsec_other"),
    "of another endpoint's secret": lambda till, body: till.sign(body, secret=till.secrets["thin"][0]),
    "old": lambda till, body: till.sign(body, age_s=301),
    "of the future": lambda till, body: till.sign(body, age_s=-301),
}


def signed(signature: str | None) -> httpx2.Headers:
    """The header of a webhook, whatever is in it."""
    return httpx2.Headers([] if signature is None else [(b"Stripe-Signature", signature.encode())])


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_news_that_stripe_did_not_sign_just_now_is_refused(till: Till, client: httpx2.AsyncClient, forge: Forge) -> None:
    body = await paid_event(till)
    answer = await client.post(PLATFORM, content=body, headers=signed(forge(till, body)))
    assert (answer.status_code, answer.json()["error"]) == (400, "webhook_invalid")
    assert inbox(till) == []


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", "null", "{", '{"object": "event"}', '{"object": "v2.core.event"}', '{"id": "\\ud800"}']
)
async def test_what_is_signed_and_no_event_is_refused(till: Till, client: httpx2.AsyncClient, body: str) -> None:
    answer = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
    assert (answer.status_code, answer.json()["error"]) == (400, "webhook_invalid")
    assert inbox(till) == []


async def test_thin_news_belongs_to_its_own_address(till: Till, client: httpx2.AsyncClient) -> None:
    thin = {
        "id": "evt_thin", "object": "v2.core.event", "type": "v2.core.account_link.returned", "livemode": False,
        "created": "2026-11-21T22:00:00.000Z", "related_object": {"id": "acct_1"},
    }  # fmt: skip
    body = json.dumps(thin)
    signatures = {endpoint: till.sign(body, secret=till.secrets[endpoint][0]) for endpoint in PATHS}
    answers = {
        endpoint: await client.post(PATHS[endpoint], content=body, headers=signed(signatures[endpoint])) for endpoint in PATHS
    }
    assert {endpoint: answer.status_code for endpoint, answer in answers.items()} == {
        "platform": 400, "connect": 400, "thin": 200,
    }  # fmt: skip
    assert [(event.endpoint, event.object_id) for event in inbox(till)] == [("thin", "acct_1")]


async def test_a_body_that_is_too_large_is_not_read_to_its_end(till: Till, client: httpx2.AsyncClient) -> None:
    sent = list[int]()

    async def endless() -> AsyncGenerator[bytes]:
        while len(sent) < 64:
            sent.append(1)
            yield b"x" * (LARGEST // 8)

    largest, too_large = b"x" * LARGEST, b"x" * (LARGEST + 1)
    answers = [await client.post(PLATFORM, content=body) for body in (largest, too_large, endless())]
    assert [answer.status_code for answer in answers] == [400, 413, 413]
    assert [answer.json()["error"] for answer in answers] == ["webhook_invalid", "body_too_large", "body_too_large"]
    assert inbox(till) == []


async def test_a_hub_listens_only_where_it_can_check_signatures(till: Till) -> None:
    async with hub_of(till, None, "platform") as client:
        answers = {endpoint: await client.post(path, content=b"{}") for endpoint, path in PATHS.items()}
        got = await client.get(PLATFORM)
    assert {endpoint: answer.status_code for endpoint, answer in answers.items()} == {
        "platform": 400, "connect": 404, "thin": 404,
    }  # fmt: skip
    assert answers["thin"].json()["error"] == "not_found"
    assert got.status_code == 405


async def test_a_hub_without_billing_has_no_webhooks(connection: Connection) -> None:
    app = hub_application(connection, build_wallet(connection.wallet))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HUB) as client:
        assert [(await client.post(path, content=b"{}")).status_code for path in PATHS.values()] == [404] * 3


async def test_while_the_database_is_in_trouble_stripe_is_asked_to_send_again(till: Till, client: httpx2.AsyncClient) -> None:
    body = await paid_event(till)
    with connect(file_of(till.ledger)) as file:
        file.execute("alter table inbox_event rename to away")
        answer = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
        assert (answer.status_code, answer.json()["error"]) == (503, "payre_unavailable")
        assert answer.headers["retry-after"]
        file.execute("alter table away rename to inbox_event")
        again = await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
    file.close()
    assert again.status_code == 200


async def test_any_bytes_get_an_answer(till: Till) -> None:
    """Whether or not they are signed."""
    signatures = st.one_of(st.none(), st.text("t=v1,0123456789 abcdef", max_size=40), st.just("signed"))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(list(PATHS)), st.one_of(st.binary(), st.text().map(str.encode)), signatures)
    def examples(endpoint: Any, body: bytes, signature: str | None) -> None:
        if signature == "signed":
            signature = till.sign(body.decode(errors="replace"), secret=till.secrets[endpoint][0])
        sent.append((PATHS[endpoint], body, signed(signature)))

    sent = list[tuple[str, bytes, httpx2.Headers]]()
    examples()
    async with hub_of(till) as client:
        answers = [await client.post(path, content=body, headers=headers) for path, body, headers in sent]
    assert {answer.status_code for answer in answers} == {400}
    assert inbox(till) == []


class Watched(Billing):
    """Says when it has worked."""

    worked: anyio.Event

    async def work(self) -> None:
        await super().work()
        self.worked.set()


async def test_news_is_handled_at_once_where_billing_runs(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payre_mcp.billing.desk.EVERY_S", 10 * PATIENCE_S)
    billing = Watched(till.ledger, till.processor, till.clock, endpoints=till.secrets)
    billing.worked = anyio.Event()
    async with hub_of(till, billing) as client, anyio.create_task_group() as group:
        group.start_soon(billing.run)
        with anyio.fail_after(PATIENCE_S):
            await billing.worked.wait()
            billing.worked = anyio.Event()
            body = await paid_event(till)
            await client.post(PLATFORM, content=body, headers=signed(till.sign(body)))
            await billing.worked.wait()
        group.cancel_scope.cancel()
    assert till.balance() == TEN


async def test_a_hub_that_runs_works_and_stops(till: Till) -> None:
    billing = Watched(till.ledger, till.processor, till.clock, endpoints=till.secrets)
    billing.worked = anyio.Event()
    app = hub_application(till.connection, build_wallet(till.connection.wallet), clock=till.clock, billing=billing)
    with anyio.fail_after(PATIENCE_S):
        async with app.router.lifespan_context(app):
            await billing.worked.wait()
