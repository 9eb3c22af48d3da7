"""The fake Stripe's way in: decoding, the request contract, keys and versions, idempotency keys, the envelope of errors."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import anyio
import httpx2
import pytest
import stripe
from starlette.applications import Starlette
from starlette.routing import Mount
from typing_extensions import is_typeddict

from payre_mcp.processors.fake_stripe import FakeStripe
from payre_mcp.processors.fake_stripe.contract import PLAIN, check, fields_of, named
from payre_mcp.processors.fake_stripe.door import LONGEST_KEY
from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.wire import decode_form, decode_json
from tests.processors.fake_stripe_client import BASES, Desk, Httpx2Client, Json, session_params, untyped

SESSION = "checkout._session_create_params:SessionCreateParams"
ACCOUNT = "v2.core._account_create_params:AccountCreateParams"
INTENT = "_payment_intent_create_params:PaymentIntentCreateParams"


def refused(contract: str, values: Json, *, text: bool = True) -> Json:
    with pytest.raises(Refusal) as refusal:
        check(contract, values, text=text)
    assert refusal.value.status == 400
    assert not refusal.value.executed
    return refusal.value.envelope()["error"]


def headers(desk: Desk, **more: str) -> dict[str, str]:
    known = {"Authorization": f"Bearer {desk.fake.api_key}", "Stripe-Version": stripe.api_version}
    return {**known, **{name.replace("_", "-"): value for name, value in more.items()}}


def test_a_form_becomes_nested_parameters_with_arrays_in_the_order_of_their_numbers() -> None:
    form = "expand[1]=b&expand[0]=a&amount=050&currency=usd&metadata[0]=zero&off_session=true&expand[10]=c"
    params = check(INTENT, decode_form(form), text=True)
    assert params == {
        "expand": ["a", "b", "c"],
        "amount": 50,
        "currency": "usd",
        "metadata": {"0": "zero"},
        "off_session": True,
    }


@pytest.mark.parametrize("form", ["a=1&a=2", "a[b]=1&a=2", "a=1&a[b]=2", "[a]=1", "a[b=1", "=1", "a]=1", "a" + "[b]" * 20 + "=1"])
def test_a_form_that_says_two_things_or_nothing_is_refused(form: str) -> None:
    with pytest.raises(Refusal):
        decode_form(form)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        decode_json(body)


@pytest.mark.parametrize(
    ("contract", "values", "code", "param"),
    [
        (INTENT, {"amount": "10.5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        (INTENT, {"amount": "", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        (INTENT, {"amount": "9" * 40, "currency": "usd"}, "parameter_invalid_integer", "amount"),
        (INTENT, {"amount": {"a": "1"}, "currency": "usd"}, "parameter_invalid_integer", "amount"),
        (INTENT, {"amount": "50"}, "parameter_missing", "currency"),
        (INTENT, {"amount": "50", "currency": {}}, "parameter_invalid_string", "currency"),
        (INTENT, {"amount": "50", "currency": "usd", "confirm": "yes"}, "parameter_invalid_boolean", "confirm"),
        (INTENT, {"amount": "50", "currency": "usd", "metadata": "x"}, "parameter_invalid_object", "metadata"),
        (INTENT, {"amount": "50", "currency": "usd", "expand": "x"}, "parameter_invalid_array", "expand"),
        (INTENT, {"amount": "50", "currency": "usd", "capture_method": "never"}, "parameter_invalid_enum", "capture_method"),
        (SESSION, {"mode": "hosted"}, "parameter_invalid_enum", "mode"),
        (SESSION, {"ui_mode": "hosted"}, "parameter_invalid_enum", "ui_mode"),
        (SESSION, {"payment_method_types": {"0": "card"}}, "payment_method_types_no_longer_supported", "payment_method_types"),
        (SESSION, {"line_items": {"0": {"qty": "1"}}}, "parameter_unknown", "line_items[0][qty]"),
        (SESSION, {"line_items": {"0": {"price_data": {}}}}, "parameter_missing", "line_items[0][price_data][currency]"),
        (SESSION, {"idempotency_key": "x"}, "parameter_unknown", "idempotency_key"),
        (SESSION, {"stripe_context": "x"}, "parameter_unknown", "stripe_context"),
        ("_event_list_params:EventListParams", {"created": {"since": "1"}}, "parameter_unknown", "created[since]"),
        ("_event_list_params:EventListParams", {"created": "x"}, "parameter_invalid_integer", "created"),
    ],
)  # fmt: skip
def test_what_the_package_does_not_know_is_refused_with_the_name_of_the_parameter(
    contract: str, values: Json, code: str, param: str
) -> None:
    error = refused(contract, values)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)


def test_the_old_field_of_account_links_is_refused() -> None:
    details = {"refresh_url": "http://hub/r", "configurations": ["recipient"]}
    values: Json = {"account": "acct_1", "use_case": {"type": "account_onboarding", "account_onboarding": details}}
    error = refused("v2.core._account_link_create_params:AccountLinkCreateParams", values, text=False)
    assert error["param"] == "use_case[account_onboarding][configurations]"


def test_text_is_no_number_in_json() -> None:
    responsibilities = {"fees_collector": "application", "losses_collector": "nobody"}
    error = refused(ACCOUNT, {"defaults": {"responsibilities": responsibilities}}, text=False)
    assert error["param"] == "defaults[responsibilities][losses_collector]"
    requested = {"stripe_balance": {"stripe_transfers": {"requested": "true"}}}
    error = refused(ACCOUNT, {"configuration": {"recipient": {"capabilities": requested}}}, text=False)
    assert error["code"] == "parameter_invalid_boolean"


def test_a_list_takes_a_moment_or_a_window() -> None:
    contract = "_event_list_params:EventListParams"
    assert check(contract, {"created": "5"}, text=True) == {"created": 5}
    assert check(contract, {"created": {"gte": "5"}}, text=True) == {"created": {"gte": 5}}


def test_an_empty_text_takes_away_what_may_be_taken_away() -> None:
    assert check("_customer_update_params:CustomerUpdateParams", {"metadata": "", "name": ""}, text=True) == {
        "metadata": "",
        "name": "",
    }


def test_every_call_has_parameters_that_the_installed_package_knows() -> None:
    for call in Desk().fake.calls:
        assert refused(call.contract, {"no_such_parameter": "1"})["code"] == "parameter_unknown"


def parts(kind: Any) -> Iterator[Any]:
    """The types that a type is put together of."""
    inside = [each for each in get_args(kind) if get_origin(kind) is not Literal]
    if inside:
        for each in inside:
            yield from parts(each)
    else:
        yield kind


def test_every_type_that_a_parameter_can_have_is_one_that_is_checked() -> None:
    """The package's parameters reach some hundred types; one that nobody reads would refuse what Stripe takes."""
    waiting, seen = [named(call.contract) for call in Desk().fake.calls], set[Any]()
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            found = {part for hint in fields_of(kind)[0].values() for part in parts(hint) if get_origin(part) is not Literal}
            nested = {part for part in found if is_typeddict(part)}
            assert found - nested <= set(PLAIN), kind
            waiting += nested
    assert len(seen) > 600


def test_numbers_that_are_no_integers_stay_text() -> None:
    line: Json = {"price_data": {"currency": "usd", "unit_amount_decimal": "0.5"}, "quantity": "1"}
    params = check(SESSION, {"line_items": {"0": line}}, text=True)
    assert params["line_items"][0] == {"price_data": {"currency": "usd", "unit_amount_decimal": "0.5"}, "quantity": 1}
    line["price_data"] = {"currency": "usd", "unit_amount_decimal": "half"}
    assert refused(SESSION, {"line_items": {"0": line}})["code"] == "parameter_invalid_number"


def test_an_array_has_numbers_for_places() -> None:
    assert refused(SESSION, {"line_items": {"first": {"quantity": "1"}}})["code"] == "parameter_invalid_array"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Basic x"}, 401),
        ({"Authorization": "Bearer sk_test_other"}, 401),
        ({"Stripe-Version": "2024-01-01"}, 400),
        ({"Stripe-Account": "acct_nobody"}, 403),
    ],
)
async def test_a_request_needs_the_key_and_the_version_of_the_package(wrong: dict[str, str], status: int) -> None:
    desk = Desk()
    async with desk.browser() as http:
        reply = await http.get("/v1/customers", headers={**headers(desk), **wrong})
        good = await http.get("/v1/customers", headers=headers(desk))
    assert (reply.status_code, good.status_code) == (status, 200)
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "sk_test_other" not in reply.text


async def test_the_package_raises_its_own_errors() -> None:
    desk = Desk()
    with pytest.raises(stripe.AuthenticationError):
        await desk.client_with("sk_test_other").v1.balance.retrieve_async()
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        await desk.client_with(desk.fake.api_key, version="2024-01-01").v1.balance.retrieve_async()
    assert unknown.value.request_id.startswith("req_")  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(stripe.InvalidRequestError) as missing:
        await desk.client.v1.customers.retrieve_async("cus_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.PermissionError):
        await desk.client.v1.balance.retrieve_async(options={"stripe_account": "acct_none"})


async def test_an_account_is_asked_for_itself_and_for_nothing_else_on_its_behalf() -> None:
    desk = Desk()
    account = await desk.account()
    options: Any = {"stripe_account": account}
    assert (await desk.client.v1.accounts.retrieve_async(account, options=options)).id == account
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.balance.retrieve_async(options=options)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/core/nothing", "/v1/customers/cus_1/sources"])
async def test_an_address_that_the_fake_does_not_play_says_so_in_the_envelope(path: str) -> None:
    desk = Desk()
    async with desk.browser() as http:
        reply = await http.get(path, headers=headers(desk))
    assert reply.status_code == 404
    assert path in reply.json()["error"]["message"]
    assert reply.headers["request-id"].startswith("req_")


async def test_the_same_key_gives_the_first_answer_again_and_makes_nothing_anew() -> None:
    desk = Desk()
    customers = desk.client.v1.customers
    first = await customers.create_async({"email": "a@b.example"}, {"idempotency_key": "k"})
    again = await customers.create_async({"email": "a@b.example"}, {"idempotency_key": "k"})
    assert again.id == first.id
    assert [reply.headers.get("idempotent-replayed") for reply in desk.http.replies] == [None, "true"]
    assert len((await customers.list_async()).data) == 1
    with pytest.raises(stripe.IdempotencyError):
        await customers.create_async({"email": "c@d.example"}, {"idempotency_key": "k"})


async def test_a_key_has_an_end() -> None:
    desk = Desk()
    customers = desk.client.v1.customers
    assert (await customers.create_async({}, {"idempotency_key": "k" * LONGEST_KEY})).id
    with pytest.raises(stripe.InvalidRequestError):
        await customers.create_async({}, {"idempotency_key": "k" * (LONGEST_KEY + 1)})


async def test_a_key_is_forgotten_after_a_day() -> None:
    desk = Desk()
    first = await desk.client.v1.customers.create_async({}, {"idempotency_key": "k"})
    desk.clock.advance(24 * 3600 + 1)
    later = await desk.client.v1.customers.create_async({}, {"idempotency_key": "k"})
    assert later.id != first.id


async def test_a_request_that_was_not_valid_leaves_its_key_free() -> None:
    desk = Desk()
    sessions, params = desk.client.v1.checkout.sessions, session_params()
    with pytest.raises(stripe.InvalidRequestError):
        await sessions.create_async(untyped({**params, "mode": "subscription"}), {"idempotency_key": "k"})
    assert (await sessions.create_async(params, {"idempotency_key": "k"})).status == "open"


async def test_an_error_of_the_first_api_is_kept_and_one_of_the_second_is_not() -> None:
    """Stripe keeps what a request was answered once it had begun to act, on /v1; a failed one runs again on /v2."""
    desk = Desk()
    account = await desk.onboarded()
    order: Any = {"amount": 100, "currency": "usd", "destination": account}
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as short:
            await desk.client.v1.transfers.create_async(order, {"idempotency_key": "payout:1"})
        assert short.value.code == "balance_insufficient"
        await desk.paid_intent(10_000, "pm_card_bypassPending")
    assert (await desk.client.v1.transfers.create_async(order, {"idempotency_key": "payout:2"})).amount == 100
    use_case = {"type": "account_onboarding", "account_onboarding": {"refresh_url": "http://hub.test"}}
    link: Any = {"account": "acct_none", "use_case": use_case}
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError):
            await desk.client.v2.core.account_links.create_async(link, {"idempotency_key": "link:1"})
    assert "idempotent-replayed" not in desk.http.replies[-1].headers


async def test_a_key_in_flight_is_a_conflict_until_the_first_request_is_answered() -> None:
    desk = Desk()
    desk.fake.chaos.api("hold", path="/v1/customers")
    options: Any = {"idempotency_key": "k"}
    made: list[str] = []

    async def first() -> None:
        made.append((await desk.client.v1.customers.create_async({}, options)).id)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(stripe.APIError) as conflict:
                await desk.client.v1.customers.create_async({}, options)
            assert conflict.value.http_status == 409
            desk.fake.chaos.release()
    again = await desk.client.v1.customers.create_async({}, options)
    assert [again.id] == made


async def test_the_second_api_reads_json_and_bracketed_queries() -> None:
    desk = Desk()
    account = await desk.account()
    async with desk.browser() as http:
        plain = await http.get(f"/v2/core/accounts/{account}", headers=headers(desk))
        path = f"/v2/core/accounts/{account}?include[0]=requirements&include[1]=configuration.recipient"
        told = await http.get(path, headers=headers(desk))
        wrong = await http.post("/v2/core/accounts", headers=headers(desk), content=b"amount=1")
    assert (plain.json()["requirements"], plain.json()["configuration"]) == (None, None)
    assert told.json()["requirements"]["entries"]
    assert told.json()["configuration"]["recipient"]["applied"]
    assert wrong.status_code == 400


async def test_a_form_may_come_as_query_and_must_be_text() -> None:
    desk = Desk()
    async with desk.browser() as http:
        by_query = await http.post("/v1/customers?name=Ada", headers=headers(desk))
        binary = await http.post("/v1/customers", headers=headers(desk), content=b"name=\xff")
    assert by_query.json()["name"] == "Ada"
    assert binary.status_code == 400


async def test_the_same_seed_and_history_give_the_same_ids() -> None:
    async def story(seed: int) -> list[tuple[str, str]]:
        desk = Desk(seed=seed)
        await desk.paid_intent(1_000)
        return [(event["id"], event["data"]["object"]["id"]) for event in desk.fake.events()]

    assert await story(1) == await story(1)
    assert await story(1) != await story(2)


async def test_lists_are_newest_first_in_pages_and_by_time() -> None:
    desk = Desk()
    made: list[str] = []
    for _ in range(5):
        made.append((await desk.client.v1.customers.create_async({})).id)
        desk.clock.advance(10)
    customers = desk.client.v1.customers
    newest = await customers.list_async({"limit": 2})
    assert [each.id for each in newest.data] == made[:-3:-1]
    assert newest.has_more
    rest = await customers.list_async({"limit": 3, "starting_after": made[3]})
    assert [each.id for each in rest.data] == made[2::-1]
    assert not rest.has_more
    before = await customers.list_async({"limit": 1, "ending_before": made[1]})
    assert ([each.id for each in before.data], before.has_more) == ([made[2]], True)
    start = desk.seconds() - 50
    assert [each.id for each in (await customers.list_async({"created": {"gte": start + 40}})).data] == [made[4]]
    assert [each.id for each in (await customers.list_async({"created": {"gt": start, "lt": start + 20}})).data] == [made[1]]
    assert [each.id for each in (await customers.list_async({"created": {"lte": start}})).data] == [made[0]]
    assert [each.id for each in (await customers.list_async({"created": start + 10})).data] == [made[1]]
    assert [each.id async for each in newest.auto_paging_iter()] == made[::-1]
    for wrong in ({"limit": 0}, {"limit": 101}, {"starting_after": "cus_none"}):
        with pytest.raises(stripe.InvalidRequestError):
            await customers.list_async(wrong)  # pyright: ignore[reportArgumentType]


async def test_what_a_reply_hides_cannot_be_expanded() -> None:
    desk = Desk()
    session = await desk.session()
    with pytest.raises(stripe.InvalidRequestError):
        await desk.client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent_data"]})


async def test_ids_are_expanded_to_objects_where_there_are_some() -> None:
    desk = Desk()
    intent = await desk.paid_intent(1_000)
    retrieve = desk.client.v1.payment_intents.retrieve_async
    full = await retrieve(intent, {"expand": ["latest_charge.balance_transaction", "customer"]})
    charge: Any = full.latest_charge
    assert charge.balance_transaction.fee == 59
    assert (await retrieve(intent)).latest_charge == charge.id
    for wrong in ("amount", "nothing", "a.b.c.d.e", "latest_charge.amount"):
        with pytest.raises(stripe.InvalidRequestError):
            await retrieve(intent, {"expand": [wrong]})


async def test_the_fake_may_live_below_a_path_of_another_application() -> None:
    desk = Desk()
    fake = desk.fake = FakeStripe(clock=desk.clock, url="http://hub.test/stripe/")
    hub = Starlette(routes=[Mount("/stripe", fake.app)])
    transport = httpx2.ASGITransport(app=hub)
    bases: Any = dict.fromkeys(BASES, "http://hub.test/stripe")
    desk.client = stripe.StripeClient(fake.api_key, http_client=Httpx2Client(transport), base_addresses=bases)
    session = await desk.session()
    async with httpx2.AsyncClient(transport=transport) as http:
        page = await http.get(str(session.url))
        missing = await http.get("http://hub.test/stripe/v1/nothing", headers=headers(desk))
    assert str(session.url).startswith("http://hub.test/stripe/pay/cs_test_")
    assert 'href="http://hub.test/stripe/static/fake_stripe.css"' in page.text
    assert "(GET: /v1/nothing)" in missing.text
