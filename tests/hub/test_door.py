"""Who gets in, how often, and what becomes of requests that are no requests: every endpoint, every wrong way."""

import json
import re
from typing import Any

import httpx2
import pytest

from payre_mcp.errors import PayreError
from payre_mcp.gateway.error_document import error_of
from payre_mcp.hub.api.call import LARGEST_BODY, Endpoint
from payre_mcp.hub.api.endpoints import ENDPOINTS
from payre_mcp.keys import Mode, Role, new_key
from payre_mcp.throttle import REFUSALS
from tests.fakes import Funded
from tests.hub.conftest import DIGEST, DOCUMENT, Hub, hold_of, make_hub, publish

SECRET = new_key(Role.CONSUMER, Mode.TEST).text
NAMES = {"hold": "hold_0000000000000", "charge": "chg_0000000000000", "top_up": "top_0000000000000", "key": "key_0000000000000"}
HOLD = {"server": "weather", "name": "forecast", "price_version": DIGEST, "args_sha256": DIGEST}


def place(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


async def ask(client: httpx2.AsyncClient, endpoint: Endpoint, name: str = "n", **options: Any) -> httpx2.Response:
    """A request to an endpoint, by default an empty one."""
    path = re.sub(r"\{(\w+)\}", lambda variable: NAMES.get(variable[1], "weather"), endpoint.path)
    return await client.request(endpoint.method, path, headers={b"Idempotency-Key": name.encode("latin-1")}, **options)


def refused(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


async def test_without_a_key_nobody_gets_in(hub: Hub) -> None:
    async with hub.client("") as client:
        for endpoint in ENDPOINTS:
            answer = await ask(client, endpoint)
            assert refused(answer) == (401, "unauthorized"), place(endpoint)
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_that_is_unknown_here_is_refused(hub: Hub) -> None:
    roles = {"developer": [Role.DEVELOPER], "consumer": [Role.CONSUMER], "either": [Role.DEVELOPER, Role.CONSUMER]}
    for endpoint in ENDPOINTS:
        for role in roles[endpoint.who]:
            hub.clock.advance(60)  # or it would be turned away for guessing
            async with hub.client(new_key(role, Mode.TEST).text) as client:
                answer = await ask(client, endpoint)
            code = "unauthorized" if role == Role.DEVELOPER else "invalid_api_key"
            assert refused(answer) == (401, code), place(endpoint)


async def test_a_key_of_the_wrong_role_or_mode_is_forbidden(hub: Hub) -> None:
    wrong = {"developer": hub.ada.key.text, "consumer": hub.ann.key, "either": new_key(Role.PUBLIC, Mode.TEST).text}
    for endpoint in ENDPOINTS:
        live = new_key(Role.CONSUMER if endpoint.who == "consumer" else Role.DEVELOPER, Mode.LIVE).text
        for key in (wrong[endpoint.who], live):
            async with hub.client(key) as client:
                assert refused(await ask(client, endpoint)) == (403, "forbidden"), place(endpoint)


async def test_only_its_methods_are_taken_at_an_address(hub: Hub) -> None:
    async with hub.client() as client:
        for endpoint in ENDPOINTS:
            answer = await ask(client, endpoint._replace(method="PATCH"))
            assert refused(answer) == (405, "method_not_allowed"), place(endpoint)
            assert endpoint.method in answer.headers["allow"].split(", ")


async def test_what_is_not_there_is_not_found(hub: Hub) -> None:
    async with hub.client() as client:
        for path in ("/", "/v1", "/v1/", "/v1/holds/", "/v1/nope", "/v2/holds", "/v1/holds/a/b/c", "/v1//balance", "/%00"):
            assert refused(await client.get(path)) == (404, "not_found"), path


async def test_a_revoked_key_is_refused_at_once(hub: Hub) -> None:
    directory = hub.connection.ledger.directory
    async with hub.client() as client, hub.client(hub.ada.key.text) as consumer:
        assert (await client.get("/v1/tools")).status_code == (await consumer.get("/v1/balance")).status_code == 200
        for key in directory.list_keys():
            directory.revoke_key(key.id)
        assert refused(await client.get("/v1/tools")) == (401, "unauthorized")
        assert refused(await consumer.get("/v1/balance")) == (401, "invalid_api_key")


async def test_two_different_keys_in_one_request_are_refused(hub: Hub) -> None:
    async with hub.client(hub.ada.key.text, **{"X-Payre-Key": hub.ann.key}) as client:
        assert refused(await client.get("/v1/balance")) == (401, "invalid_api_key")


async def test_who_guesses_keys_is_turned_away_and_who_has_one_is_not(hub: Hub) -> None:
    """Threat T14."""
    async with hub.client("") as client:
        answers = [
            await client.get("/v1/balance", headers={"X-Payre-Key": new_key(Role.CONSUMER, Mode.TEST).text})
            for _ in range(REFUSALS + 1)
        ]
        good = await client.get("/v1/balance", headers={"X-Payre-Key": hub.ada.key.text})
        assert [answer.status_code for answer in answers] == [401] * REFUSALS + [429]
        assert good.status_code == 429, "a key that has never worked here looks like a guess"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        hub.clock.advance(60)
        assert (await client.get("/v1/balance", headers={"X-Payre-Key": hub.ada.key.text})).status_code == 200


async def test_a_key_has_so_many_requests_a_minute(hub: Hub, consumer: Funded) -> None:
    small = make_hub(hub.connection, hub.clock, consumer, consumer_rate=3, developer_rate=5)
    async with small.client(consumer.key.text) as client, small.client() as developer:
        answers = [await client.get("/v1/balance") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert refused(answers[-1]) == (429, "rate_limited")
        assert answers[-1].headers["retry-after"] == "20"
        assert [(await developer.get("/v1/tools")).status_code for _ in range(6)] == [200] * 5 + [429]
        hub.clock.advance(20)
        assert [(await client.get("/v1/balance")).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("name", ["trace-1", "x" * 64, "!~"])
async def test_a_request_keeps_the_name_that_its_caller_gave_it(hub: Hub, name: str) -> None:
    async with hub.client("", **{"X-Request-Id": name}) as client:
        for path in ("/v1/balance", "/nope", "/healthz", "/version"):
            assert (await client.get(path)).headers["x-request-id"] == name


@pytest.mark.parametrize("name", ["", "x" * 65, "with blank", "gr\u00fcn", "tab\there"])
async def test_a_name_that_is_none_is_replaced(hub: Hub, name: str) -> None:
    async with hub.client("") as client:
        sent = {b"X-Request-Id": name.encode("latin-1")}
        given = [(await client.get("/v1/balance", headers=sent)).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch("req_[0-9a-f]{20}", each) for each in given)
    assert given[0] != given[1]


async def test_other_hosts_are_told_nothing(hub: Hub) -> None:
    async with hub.client() as client:
        for host in ("evil.example", "127.0.0.1.evil.example", ""):
            answer = await client.get("/v1/tools", headers={"Host": host})
            assert refused(answer) == (421, "invalid_request")
        for host in ("localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:99"):
            assert (await client.get("/v1/tools", headers={"Host": host})).status_code == 200


WRONG: dict[str, bytes] = {
    "no JSON": b"hello", "a list": b"[]", "null": b"null", "text": b'"x"', "a number": b"5", "half": b'{"name": ', "two": b"{}{}",
    "bad UTF-8": b'{"name": "\xff"}', "a lone surrogate": b'{"name": "\\ud800"}', "NUL": b'{"name": "a\\u0000b"}',
    "a control character": b'{"name": "a\\u001bb"}', "NaN": b'{"amount": NaN}', "infinity": b'{"amount": -Infinity}',
    "too large a float": b'{"amount": 1e999}', "5,000 digits": b'{"amount_micros": ' + b"9" * 5000 + b"}",
    "a huge number": b'{"max_price_micros": 9007199254740992}', "a negative number": b'{"max_price_micros": -1}',
    "deep nesting": b'{"spec": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "an unknown field": b'{"nmae": "forecast"}',
    "a boolean amount": b'{"amount": true}', "another type": b'{"name": 5, "server": [], "api_key": {}}',
}  # fmt: skip


async def test_a_wrong_body_is_refused_and_nothing_happens(hub: Hub) -> None:
    before = len(hub.connection.ledger.directory.list_keys())
    async with hub.client() as developer, hub.client(hub.ada.key.text) as consumer:
        for endpoint in (each for each in ENDPOINTS if each.method in {"POST", "PUT"}):
            for what, body in WRONG.items():
                answer = await ask(consumer if endpoint.who == "consumer" else developer, endpoint, content=body)
                assert refused(answer) == (400, "invalid_request"), (place(endpoint), what)
    assert hub.ada.account()[1:3] == (1_000_000, 0)
    assert len(hub.connection.ledger.directory.list_keys()) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"),
        ({"nmae": "x"}, "nmae"),
        ({"serverName": "x"}, "serverName"),
        ({"server": "a/b"}, "server"),
        ({"kind": "toll"}, "kind"),
        ({"priceVersion": "x", "price_version": None}, "price_version"),
        ({"known": {"quantities": {"tokens": -1}}}, "known.quantities.tokens"),
        ({"known": {"facts": {"tokens": "1/0"}}}, "known.facts.tokens"),
        ({"max_price_micros": 2**53}, "max_price_micros"),
        ({"idempotency_key": "with blank"}, "idempotency_key"),
    ],
)
async def test_a_refusal_names_the_field_that_is_wrong(hub: Hub, change: dict[str, Any], field: str) -> None:
    sent = {name: value for name, value in {**HOLD, **change}.items() if value is not None}
    async with hub.client() as client:
        answer = await client.post("/v1/holds", json=sent)
    assert refused(answer) == (400, "invalid_request")
    assert f"`{field}`" in answer.json()["message"]


@pytest.mark.parametrize(
    "sent",
    [
        {**HOLD, "api_key": f"{SECRET} "},
        {**HOLD, "api_key": SECRET * 5},
        {**HOLD, SECRET: 1},
        {**HOLD, "name": SECRET, "kind": SECRET},
        {**HOLD, "api_key": [SECRET]},
        {**HOLD, "api_key": SECRET},
        {**HOLD, "server": f"{SECRET}/"},
    ],
)
async def test_no_refusal_repeats_a_key(hub: Hub, sent: dict[str, Any]) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        answer = await client.post("/v1/holds", json={**sent, "price_version": versions["forecast"]})
    assert answer.status_code in {400, 401, 403}
    assert SECRET[16:-4] not in answer.text


async def test_a_field_that_came_twice_counts_as_it_was_said_last(hub: Hub) -> None:
    body = f'{{"amount": 5, "tool": "no", "tool": "forecast", "api_key": "{hub.ada.key.text}", "amount": "0.005"}}'
    async with hub.client() as client:
        await publish(client)
        assert (await client.post("/v1/charges", content=body)).json()["amount_micros"] == 5000


PAGES = [{"limit": n} for n in (0, -1, 101, "x", 10**30, 1.5)] + [
    {"cursor": c} for c in ("", "x", "chg_x", "0", "a\x00b", "hold_1m804gcw40400")
]


async def test_an_absurd_page_is_refused(hub: Hub) -> None:
    charges = [{"since": -1}, {"until": 10**30}, {"server": "a\x00"}, {"tool": "x" * 3000}, {"x": 1}]
    async with hub.client() as developer, hub.client(hub.ada.key.text) as consumer:
        for client, path in (
            (developer, "/v1/charges"), (consumer, "/v1/usage"), (developer, "/v1/tools"),
            (developer, "/v1/payouts"), (consumer, "/v1/top-ups"),
        ):  # fmt: skip
            for query in [*PAGES, *(charges if path in {"/v1/charges", "/v1/usage"} else ())]:
                assert refused(await client.get(path, params=query)) == (400, "invalid_request"), (path, query)


async def test_a_parameter_comes_once_and_only_where_there_are_any(hub: Hub) -> None:
    async with hub.client() as client:
        assert refused(await client.get("/v1/charges?limit=1&limit=2")) == (400, "invalid_request")
        assert refused(await client.post("/v1/quotes?x=1", json=HOLD)) == (400, "invalid_request")
        assert refused(await client.get("/v1/earnings?x=1")) == (400, "invalid_request")


async def test_the_cursor_of_tools_is_one_that_was_given(hub: Hub) -> None:
    async with hub.client() as client:
        for cursor in ('["weather"]', '["weather", 5, "x"]', "{}", "[" * 2000):
            assert refused(await client.get("/v1/tools", params={"cursor": cursor})) == (400, "invalid_request"), cursor


async def test_an_idempotency_key_is_visible_ascii(hub: Hub) -> None:
    async with hub.client() as client:
        for endpoint in (each for each in ENDPOINTS if each.naming != "none"):
            for name in ("", "x" * 256, "with blank", "gr\u00fcn"):
                answer = await ask(client, endpoint, name, json=HOLD)
                assert refused(answer) == (400, "invalid_request"), (place(endpoint), name)


async def test_a_body_that_is_too_large_is_refused_before_it_is_read_as_json(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        large = b" " * (LARGEST_BODY + 1)
        assert refused(await client.post("/v1/holds", content=large)) == (413, "body_too_large")
        hold = (await client.post("/v1/holds", json=hold_of(hub, versions["forecast"]))).json()
        result = json.dumps({"text": "x" * 200_000})
        captures = [
            {"id": f"{n}", "act": "capture", "body": {"token": hold["token"], "stored_result": result}} for n in range(20)
        ]
        answers = (await client.post("/v1/batch", json={"requests": captures})).json()["answers"]
    assert {answer["body"]["amount_micros"] for answer in answers} == {5000}
    assert hub.ada.account().balance_micros == 995_000


async def test_what_breaks_inside_is_an_answer_without_its_insides(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    async with hub.client() as client:
        hub.connection.ledger.journal.close()
        answer = await client.get("/v1/charges")
    assert answer.status_code in {500, 503}
    assert answer.json()["error"] in {"internal_error", "payre_unavailable"}
    assert "sqlite" not in answer.text.lower()


async def test_every_refusal_becomes_the_same_error_at_the_other_end(hub: Hub) -> None:
    async with hub.client() as client:
        document = (await client.post("/v1/holds", json=HOLD)).json()
    error = error_of(document)
    assert isinstance(error, PayreError)
    assert (error.code, error.http_status, error.message) == ("not_priced", 403, document["message"])


async def test_the_document_is_served_and_tells_every_endpoint(hub: Hub) -> None:
    async with hub.client("") as client:
        document = (await client.get("/v1/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    told = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert told == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert document["paths"] == DOCUMENT["paths"]


async def test_a_price_list_without_a_price_is_refused(hub: Hub) -> None:
    async with hub.client() as client:
        answer = await client.put("/v1/servers/atlas/prices", json={"prices": []})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
