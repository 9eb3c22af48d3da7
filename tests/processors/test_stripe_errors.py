"""What Stripe refuses and does not answer, in our words: stripe.md section 1, the table of errors. Over hand-written answers."""

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
import stripe
from anyio import lowlevel

from payre_mcp.clock import ManualClock
from payre_mcp.errors import ProcessorError, SettingsInvalid
from payre_mcp.processors.base import TransferOrder
from payre_mcp.processors.stripe import StripeProcessor
from payre_mcp.processors.stripe_errors import in_our_words
from payre_mcp.processors.stripe_http import Httpx2Client

KEY = "sk_test_51Hq8Zabcdefghijklmnop"
ADA = "ada@example.com"
Answer = Callable[[httpx2.Request], httpx2.Response]


def processor(answer: Answer, *, key: str = KEY) -> StripeProcessor:
    return StripeProcessor(key, clock=ManualClock(), transport=httpx2.MockTransport(answer), base_url="http://stripe.test/")


def refusing(status: int, **error: Any) -> Answer:
    """Answers with an error, once: the package is told not to try again."""
    headers = {"Request-Id": "req_7", "Stripe-Should-Retry": "false"}
    details = {"message": f"No good: {ADA} {KEY}", **error}
    return lambda _: httpx2.Response(status, json={"error": details}, headers=headers)


async def caught(answer: Answer, *, of_second_api: bool = False) -> ProcessorError:
    stripe_ = processor(answer)
    order = TransferOrder(reference="pay_1", account_id="acct_1", amount_cents=1000)
    with pytest.raises(ProcessorError) as raised:
        await (
            stripe_.make_payee(reference="dev_1", email=ADA, name="Ada", country="US")
            if of_second_api
            else stripe_.transfer(order)
        )
    await stripe_.aclose()
    return raised.value


TABLE: list[tuple[int, dict[str, Any], str, bool, str]] = [
    (400, {"type": "invalid_request_error", "code": "balance_insufficient"}, "balance_insufficient", False, "nothing was done"),
    (400, {"type": "invalid_request_error", "param": "amount"}, "invalid_request_error", False, "of amount"),
    (404, {"type": "invalid_request_error", "code": "resource_missing"}, "resource_missing", False, "nothing was done"),
    (400, {"type": "idempotency_error"}, "idempotency_error", True, "same reference"),
    (409, {"type": "idempotency_error", "code": "idempotency_key_in_use"}, "idempotency_key_in_use", True, "not known"),
    (409, {"type": "invalid_request_error", "code": "lock_timeout"}, "lock_timeout", True, "not known"),
    (401, {"type": "invalid_request_error"}, "invalid_request_error", False, "configuration"),
    (403, {"type": "invalid_request_error"}, "invalid_request_error", False, "configuration"),
    (402, {"type": "card_error", "code": "card_declined", "decline_code": "lost_card"}, "lost_card", False, "no money moved"),
    (429, {"type": "invalid_request_error", "code": "rate_limit"}, "rate_limit", False, "Try again"),
    (400, {"type": "invalid_request_error", "code": "rate_limit"}, "rate_limit", False, "Try again"),
    (418, {"type": "of_a_later_year"}, "of_a_later_year", True, "not known"),
    (500, {"type": "api_error"}, "api_error", True, "not known"),
    (503, {}, "no_answer", True, "not known"),
]
SECOND_API: list[tuple[int, dict[str, Any], str, bool, str]] = [
    (400, {"type": "insufficient_funds", "code": "x"}, "x", False, "nothing was done"),
    (400, {"type": "cannot_proceed"}, "cannot_proceed", False, "nothing was done"),
    (429, {"type": "rate_limit"}, "rate_limit", False, "Try again"),
    (409, {"type": "idempotency_error"}, "idempotency_error", True, "not known"),
    (500, {"type": "feature_not_enabled"}, "feature_not_enabled", True, "not known"),
]


@pytest.mark.parametrize(
    ("status", "error", "reason", "outcome_unknown", "words", "of_second_api"),
    [*((*row, False) for row in TABLE), *((*row, True) for row in (*TABLE, *SECOND_API))],
)
async def test_a_refusal_says_what_it_means_for_the_money(
    status: int, error: dict[str, Any], reason: str, outcome_unknown: bool, words: str, of_second_api: bool
) -> None:
    told = await caught(refusing(status, **error), of_second_api=of_second_api)
    assert (told.reason, told.outcome_unknown, told.request_id) == (reason, outcome_unknown, "req_7")
    assert words in told.message
    assert "req_7" in told.message
    assert ADA not in f"{told.message}{told.data()}"
    assert KEY not in f"{told.message}{told.data()}"


async def test_a_decline_that_names_no_payment_is_a_refusal() -> None:
    stripe_ = processor(refusing(402, type="card_error", code="card_declined", decline_code="lost_card"))
    with pytest.raises(ProcessorError) as raised:
        await stripe_.charge_card(reference="top_1", customer_id="cus_1", method_id="pm_1", amount_cents=100)
    assert (raised.value.reason, raised.value.outcome_unknown) == ("lost_card", False)
    await stripe_.aclose()


async def test_a_card_that_cannot_be_forgotten_and_is_there_still_is_told() -> None:
    def keep(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            return refusing(400, type="invalid_request_error", code="in_use")(request)
        return httpx2.Response(200, json={"object": "payment_method", "id": "pm_1", "customer": "cus_1"})

    stripe_ = processor(keep)
    with pytest.raises(ProcessorError) as raised:
        await stripe_.forget_card("pm_1")
    assert raised.value.reason == "in_use"
    await stripe_.aclose()


async def test_a_reference_used_with_other_content_is_told_to_the_log_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    await caught(refusing(400, type="idempotency_error"))
    (record,) = [record for record in caplog.records if record.name.startswith("payre_mcp")]
    assert (record.levelno, "two contents" in record.getMessage()) == (logging.ERROR, True)
    caplog.clear()
    await caught(refusing(400, type="idempotency_error"), of_second_api=True)
    await caught(refusing(409, type="idempotency_error"))
    await caught(refusing(400, type="invalid_request_error"))
    assert len([record for record in caplog.records if record.name.startswith("payre_mcp")]) == 1


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(403, text="<h1>Blocked for ada@example.com</h1>"),
        httpx2.Response(200, text="<h1>Please sign in to the network</h1>"),
        httpx2.Response(302, headers={"location": "http://elsewhere.test"}),
        httpx2.Response(204),
        httpx2.Response(200, content=b"\xff\xfe"),
        httpx2.Response(200, json=[]),
        httpx2.Response(200, json=None),
        httpx2.Response(400, json={"error": "invalid_grant"}),
        httpx2.Response(400, json={"error": None}),
        httpx2.Response(400, json={"message": "no"}),
    ],
)
async def test_an_answer_that_is_not_stripes_leaves_the_outcome_open(reply: httpx2.Response) -> None:
    """A proxy's page, or that of a network that wants a sign-in; what it says goes nowhere."""
    told = await caught(lambda _: reply)
    assert (told.outcome_unknown, told.reason, told.request_id) == (True, "no_answer", "")
    assert ADA not in f"{told.message}{told.__cause__}"


@pytest.mark.parametrize("body", [{}, {"id": 7}, {"object": "transfer"}, {"object": "list", "data": []}])
async def test_an_answer_of_stripes_that_cannot_be_read_leaves_the_outcome_open(body: dict[str, Any]) -> None:
    told = await caught(lambda _: httpx2.Response(200, json=body))
    assert (told.outcome_unknown, told.reason) == (True, "unreadable_answer")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"object": "list"},
        {"object": "list", "data": None},
        {"object": "list", "data": [7]},
        {"object": "list", "data": [{"id": "txn_1"}], "has_more": False},
        {"object": "list", "data": [{"id": "txn_1"}], "has_more": True},
        {"data": {}, "next_page_url": None},
        {"data": [], "next_page_url": 7},
    ],
)
async def test_a_list_that_is_none_is_an_error_of_the_processor(body: dict[str, Any]) -> None:
    stripe_ = processor(lambda _: httpx2.Response(200, json=body))
    with pytest.raises(ProcessorError, match="cannot be read"):
        assert [line async for line in stripe_.bank_lines(since=ManualClock().now_us())]
    with pytest.raises(ProcessorError, match="cannot be read"):
        await stripe_.set_up({"thin": "https://hub.test"})
    await stripe_.aclose()


async def test_a_request_that_gets_no_answer_is_tried_three_times_with_one_key() -> None:
    seen: list[httpx2.Request] = []

    def lose(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        raise httpx2.ReadError("the line broke")

    told = await caught(lose)
    assert (told.outcome_unknown, told.reason) == (True, "no_answer")
    assert "same reference" in told.message
    assert [request.headers["idempotency-key"] for request in seen] == ["payout:pay_1"] * 3
    assert {request.headers["stripe-version"] for request in seen} == {stripe.api_version}


@pytest.mark.parametrize("error", [stripe.APIConnectionError("x"), stripe.APIError("x"), stripe.StripeError("x")])
def test_what_has_no_status_leaves_the_outcome_open(error: stripe.StripeError) -> None:
    with pytest.raises(ProcessorError) as raised, in_our_words():
        raise error
    assert raised.value.outcome_unknown
    assert raised.value.__cause__ is error


async def test_a_timeout_is_for_the_whole_answer() -> None:
    """One that trickles in never stops a client that only waits for the next byte."""

    class Trickle(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await lowlevel.checkpoint()
                yield b" "

    client = Httpx2Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Trickle())), timeout_s=0.05)
    with pytest.raises(stripe.APIConnectionError) as raised:
        await client.request_async("get", "http://stripe.test/v1/balance", {})
    assert raised.value.should_retry
    await client.close_async()


async def test_a_notice_of_stripe_is_told_to_the_log_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The package would warn, and warnings are errors here."""
    balance = {"object": "balance", "available": [{"amount": 7, "currency": "usd"}]}
    stripe_ = processor(lambda _: httpx2.Response(200, json=balance, headers={"Stripe-Notice": "upgrade"}))
    assert await stripe_.available_cents() == 7
    assert "Stripe says: upgrade" in caplog.text
    await stripe_.aclose()


async def test_a_base_url_redirects_every_address_of_stripe() -> None:
    """One that the package is not told of stays the real one."""
    addresses: dict[str, dict[str, Any]] = {}
    for base_url in ("http://stripe.test/", ""):
        stripe_ = StripeProcessor(KEY, clock=ManualClock(), base_url=base_url, transport=httpx2.MockTransport(refusing(500)))
        addresses[base_url] = {**stripe_._client._requestor.base_addresses}  # pyright: ignore[reportPrivateUsage]
        await stripe_.aclose()
    assert addresses["http://stripe.test/"] == dict.fromkeys(addresses[""], "http://stripe.test")
    assert all(address.endswith(".stripe.com") for address in addresses[""].values())


@pytest.mark.parametrize("kind", ["sk", "rk"])
@pytest.mark.parametrize("mode", ["test", "live"])
async def test_the_key_says_whether_money_is_real(kind: str, mode: str) -> None:
    stripe_ = processor(refusing(500), key=f"{kind}_{mode}_51Habcdefgh")
    assert stripe_.livemode == (mode == "live")
    await stripe_.aclose()


@pytest.mark.parametrize(
    "key", ["", "sk_test_", "pk_test_51Habcdefgh", "sk_51Habcdefgh", f"{KEY}\n", f" {KEY}", "sk_test_\xe9abc"]
)
def test_what_is_no_secret_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        processor(refusing(500), key=key)
    assert "51H" not in raised.value.message


async def test_only_the_async_calls_of_the_package_work() -> None:
    client = stripe.StripeClient(KEY, http_client=Httpx2Client(transport=httpx2.MockTransport(refusing(500))))
    with pytest.raises(NotImplementedError):
        client.v1.balance.retrieve()
