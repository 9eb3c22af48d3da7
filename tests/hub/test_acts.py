"""What sellers do at the hub, one by one and in batches: the contract that a remote gateway relies on."""

from typing import Any

import anyio
import httpx2
import pytest

from payre_mcp.hub.api.acts import ACTS
from payre_mcp.hub.api.endpoints import ENDPOINTS
from payre_mcp.keys import Role
from payre_mcp.ledger.writer import HOLD_LIFE_US
from tests.hub.conftest import DIGEST, Hub, again, hold_of, named, publish

METERED = {
    "dimensions": [{"direction": "usage", "unit": "tokens", "scale": 1, "tiers": [{"price_usd": 0.001}]}],
    "max_price_usd": 0.5,
}


async def held(hub: Hub, client: httpx2.AsyncClient, name: str = "call-1", **fields: Any) -> dict[str, Any]:
    """A hold for a call of Ada's."""
    versions = await publish(client)
    answer = await client.post("/v1/holds", json=hold_of(hub, versions["forecast"], **fields), headers=named(name))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def end(client: httpx2.AsyncClient, hold: dict[str, Any], how: str, **fields: Any) -> httpx2.Response:
    """End a hold, or keep it."""
    return await client.post(f"/v1/holds/{hold['hold']}/{how}", json={"token": hold["token"], **fields}, headers=named("end"))


async def test_a_call_is_held_and_captured(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client)
        assert (hold["held_micros"], hold["held_usd"]) == (5000, "0.005")
        assert hub.ada.account().held_micros == 5000
        charged = (await end(client, hold, "capture")).json()
    assert (charged["amount_micros"], charged["fee_micros"], charged["sufficient"]) == (5000, 150, True)
    assert hub.ada.account()[1:3] == (995_000, 0)
    hub.audited()


async def test_an_answer_to_a_seller_never_tells_a_balance(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client, forecast="0.6")
        asked = hold_of(hub, versions["forecast"])
        first = await client.post("/v1/charges", json={"api_key": asked["api_key"], "tool": "forecast", "amount": "0.6"})
        refused = [
            await client.post("/v1/holds", json=asked),
            await client.post("/v1/charges", json={"api_key": asked["api_key"], "tool": "forecast", "amount": 0.6}),
        ]
        batched = await client.post("/v1/batch", json={"requests": [{"id": "1", "act": "hold", "body": asked}]})
    assert first.json()["sufficient"] is False
    assert [answer.status_code for answer in refused] == [402, 402]
    for document in (*(answer.json() for answer in refused), batched.json()["answers"][0]["body"]):
        assert document["error"] == "insufficient_balance"
        assert document["price_micros"] == 600_000
        assert document["top_up_url"].startswith("http://127.0.0.1:8080/top-ups/")
        assert not {"balance_micros", "balance_usd", "shortfall_micros"} & document.keys()
        assert "available" not in document["message"]


async def test_a_voided_hold_costs_nothing_however_often_it_is_voided(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client)
        answers = [await end(client, hold, "void") for _ in range(2)]
        late = await end(client, hold, "capture")
    assert [answer.json() for answer in answers] == [{"hold": hold["hold"], "expires_at": 0}] * 2
    assert (late.status_code, late.json()["error"]) == (409, "hold_not_open")
    assert hub.ada.account()[1:3] == (1_000_000, 0)


async def test_a_capture_that_is_asked_for_again_answers_the_same_charge(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client)
        first, second = [await end(client, hold, "capture") for _ in range(2)]
    assert second.json()["charge_id"] == first.json()["charge_id"]
    assert hub.ada.account().balance_micros == 995_000


async def test_a_hold_that_is_asked_for_again_under_its_name_is_the_same_hold(hub: Hub) -> None:
    async with hub.client() as client:
        first, second, other = [await held(hub, client, name) for name in ("one", "one", "two")]
    assert first["hold"] == second["hold"] != other["hold"]
    assert hub.ada.account().held_micros == 10_000


async def test_the_longest_name_of_a_request_fits(hub: Hub) -> None:
    async with hub.client() as client:
        first, second = [await held(hub, client, "n" * 255) for _ in range(2)]
    assert first["hold"] == second["hold"]


async def test_developers_do_not_share_the_names_of_their_requests(hub: Hub) -> None:
    async with hub.client() as ann, hub.client(hub.bob.key) as bob:
        assert (await held(hub, ann, "one"))["hold"] != (await held(hub, bob, "one"))["hold"]


async def test_what_a_consumer_paid_under_a_key_is_replayed_with_its_result(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client, idempotency_key="order-7")
        first = (await end(client, hold, "capture", stored_result='{"sunny": true}')).json()
        replay = await held(hub, client, "call-2", idempotency_key="order-7")
    assert replay["charge_id"] == first["charge_id"]
    assert (replay["replayed"], replay["result"]) == (True, {"sunny": True})
    assert hub.ada.account().balance_micros == 995_000


@pytest.mark.parametrize("result", ["no JSON", "[1]", '{"x": NaN}', '{"x": 1e999}', "[" * 9999, '{"x": ' + "9" * 5000 + "}"])
async def test_a_result_that_cannot_be_said_again_is_not_kept(hub: Hub, result: str) -> None:
    async with hub.client() as client:
        hold = await held(hub, client, idempotency_key="order-7")
        assert (await end(client, hold, "capture", stored_result=result)).status_code == 200
        replay = await held(hub, client, "call-2", idempotency_key="order-7")
    assert (replay["replayed"], replay["result"]) == (True, None)


async def test_a_running_call_keeps_its_hold_and_a_waiting_one_goes_on_once(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client)
        hub.clock.advance(60)
        kept = (await end(client, hold, "extend")).json()
        assert kept["expires_at"] == hub.clock.now_us() + HOLD_LIFE_US > hold["expires_at"]
        waiting = (await end(client, hold, "suspend")).json()
        versions = await publish(client)
        call = hold_of(hub, versions["forecast"])
        resumed, second = [await end(client, hold, "resume", since=waiting["expires_at"], call=call) for _ in range(2)]
        assert resumed.json()["hold"] == hold["hold"]
        assert second.json()["error"] == "hold_not_open"
        assert (await end(client, resumed.json(), "capture")).json()["amount_micros"] == 5000
    hub.audited()


async def test_a_hold_goes_on_only_for_the_call_that_it_was_made_for(hub: Hub) -> None:
    async with hub.client() as client:
        hold = await held(hub, client)
        waiting = (await end(client, hold, "suspend")).json()
        call = hold_of(hub, DIGEST, name="radar")
        answer = await end(client, hold, "resume", since=waiting["expires_at"], call=call)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("how", ["capture", "void", "extend", "suspend"])
async def test_a_hold_of_another_developer_is_as_unknown_as_one_that_never_was(hub: Hub, how: str) -> None:
    async with hub.client() as ann, hub.client(hub.bob.key) as bob:
        hold = await held(hub, ann)
        other = await held(hub, ann, "other")
        foreign = await end(bob, hold, how)
        elsewhere = await end(ann, {**hold, "hold": other["hold"]}, how)
        forged = await end(ann, {**hold, "token": hold["token"][:-3] + "AAA"}, how)
        nowhere = await end(ann, {**hold, "hold": "hold_x"}, how)
    assert [each.status_code for each in (foreign, elsewhere, forged, nowhere)] == [404] * 4
    assert {each.json()["error"] for each in (foreign, elsewhere, forged)} == {"hold_unknown"}
    assert foreign.json() == elsewhere.json()
    assert hub.ada.account().held_micros == 10_000


async def test_any_process_of_the_hub_can_end_any_hold(hub: Hub) -> None:
    """A second hub over the same ledger has seen neither the price list nor the hold."""
    fresh = again(hub)
    async with hub.client() as first, fresh.client() as second:
        hold = await held(hub, first)
        assert (await end(second, hold, "capture")).json()["amount_micros"] == 5000
        hold = await held(hub, first, "call-2")
        waiting = (await end(first, hold, "suspend")).json()
    async with again(hub).client() as third:
        versions = await publish(third)
        call = hold_of(hub, versions["forecast"])
        assert (await end(third, hold, "resume", since=waiting["expires_at"], call=call)).status_code == 200


async def test_a_charge_by_hand_takes_payres_names_and_stays_within_the_price(hub: Hub) -> None:
    async with hub.client() as client:
        await publish(client)
        asked = {"apiKey": hub.ada.key.text, "tool": "forecast", "amount": 0.003}
        charged = await client.post("/v1/charges", json=asked)
        dear = await client.post("/v1/charges", json={**asked, "amount": 0.0051})
        unknown = await client.post("/v1/charges", json={**asked, "tool": "radar"})
        stale = await client.post("/v1/charges", json={**asked, "server": "weather", "price_version": DIGEST})
    assert charged.json()["amount_usd"] == "0.003"
    assert [each.json()["error"] for each in (dear, unknown, stale)] == ["price_mismatch"] * 3
    assert hub.ada.account().balance_micros == 997_000
    hub.audited()


async def test_a_charge_by_hand_is_made_once_under_its_name(hub: Hub) -> None:
    async with hub.client() as client:
        await publish(client)
        asked = {"api_key": hub.ada.key.text, "tool": "forecast", "amount_micros": 3000}
        header = [await client.post("/v1/charges", json=asked, headers=named("n-1")) for _ in range(2)]
        body = await client.post("/v1/charges", json={**asked, "idempotency_key": "n-1"})
        other = await client.post("/v1/charges", json={**asked, "amount_micros": 4000}, headers=named("n-1"))
        both = await client.post("/v1/charges", json={**asked, "idempotency_key": "n-2"}, headers=named("n-1"))
        unnamed = await client.post("/v1/charges", json=asked)
    assert [each.json()["replayed"] for each in (*header, body)] == [False, True, True]
    assert len({each.json()["charge_id"] for each in (*header, body)}) == 1
    assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")
    assert both.status_code == 400
    assert unnamed.json()["replayed"] is False
    assert hub.ada.account().balance_micros == 994_000


async def test_a_charge_says_which_server_where_several_have_the_tool(hub: Hub) -> None:
    async with hub.client() as client, hub.client(hub.bob.key) as bob:
        await publish(client)
        await publish(bob, "elsewhere", forecast="0.9")
        asked = {"api_key": hub.ada.key.text, "tool": "forecast", "amount": "0.005"}
        assert (await client.post("/v1/charges", json=asked)).status_code == 200
        await publish(client, "second", forecast="0.01")
        unclear = await client.post("/v1/charges", json=asked)
        named_one = await client.post("/v1/charges", json={**asked, "server": "second", "amount": "0.01"})
    assert "send `server`" in unclear.json()["message"]
    assert named_one.status_code == 200


async def test_a_metered_hold_is_charged_by_what_was_used(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client, forecast=METERED)
        asked = hold_of(hub, versions["forecast"])
        hold = (await client.post("/v1/holds", json=asked)).json()
        assert hold["held_micros"] == 500_000
        charged = await end(client, hold, "capture", usage={"quantities": {"tokens": 12}})
    assert charged.json()["amount_micros"] == 12_000
    hub.audited()


async def test_a_quote_says_where_the_counters_stand(hub: Hub) -> None:
    tiers = [{"up_to": 100, "price_usd": 0.001}, {"price_usd": 0.0005}]
    metered = {"dimensions": [{"direction": "usage", "unit": "tokens", "scale": 1, "tiers": tiers}], "max_price_usd": 0.5}
    async with hub.client() as client:
        versions = await publish(client, forecast=metered)
        asked = hold_of(hub, versions["forecast"])
        before = (await client.post("/v1/quotes", json=asked)).json()
        hold = (await client.post("/v1/holds", json=asked)).json()
        await end(client, hold, "capture", usage={"quantities": {"tokens": 12}})
        after = (await client.post("/v1/quotes", json=asked)).json()
        nobody = (await client.post("/v1/quotes", json={**asked, "api_key": None})).json()
    assert (before["used_before"], after["used_before"], nobody["used_before"]) == ([0], [12], [0])


async def test_a_key_is_checked_without_a_word_about_its_balance(hub: Hub) -> None:
    directory = hub.connection.ledger.directory
    async with hub.client() as client:
        await publish(client)
        await publish(client, "other")
        server = directory.find_server(hub.ann.id, "other")
        assert server is not None
        bound = directory.create_key(Role.CONSUMER, hub.ada.id, server_id=server.id).text
        answers = {
            (key, name): await client.post("/v1/keys/check", json={"api_key": key, "server": name})
            for key in (hub.ada.key.text, bound)
            for name in ("weather", "other", "nowhere")
        }
    assert answers[hub.ada.key.text, "weather"].json() == {"sufficient": True}
    assert answers[bound, "other"].json() == {"sufficient": True}
    assert [answers[bound, name].json()["error"] for name in ("weather", "nowhere")] == ["forbidden"] * 2


async def test_a_refund_returns_a_charge_once_and_only_to_its_own_developer(hub: Hub) -> None:
    async with hub.client() as client, hub.client(hub.bob.key) as bob:
        await publish(client)
        asked = {"api_key": hub.ada.key.text, "tool": "forecast", "amount": "0.005"}
        charge = (await client.post("/v1/charges", json=asked)).json()["charge_id"]
        path = f"/v1/charges/{charge}/refund"
        unnamed = await client.post(path, json={})
        foreign = await bob.post(path, json={}, headers=named("r"))
        unknown = await bob.post("/v1/charges/chg_0000000000000/refund", json={}, headers=named("r"))
        part = [await client.post(path, json={"amount": "0.002"}, headers=named("r-1")) for _ in range(2)]
        too_much = await client.post(path, headers=named("r-2"))
        rest = await client.post(path, json={"amount_micros": 3000}, headers=named("r-3"))
    assert unnamed.status_code == 400
    assert "Idempotency-Key" in unnamed.json()["message"]
    assert (foreign.status_code, foreign.json()["error"]) == (unknown.status_code, unknown.json()["error"]) == (404, "not_found")
    assert [each.json()["refunded_usd"] for each in (*part, rest)] == ["0.002", "0.002", "0.003"]
    assert too_much.json()["error"] == "refund_exceeds_charge"
    assert hub.ada.account().balance_micros == 1_000_000
    hub.audited()


async def test_a_batch_answers_each_of_its_acts_in_order_whatever_becomes_of_the_others(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        hold = (await client.post("/v1/holds", json=hold_of(hub, versions["forecast"]))).json()
        key = hub.ada.key.text
        acts: list[tuple[str, dict[str, Any]]] = [
            ("hold", hold_of(hub, versions["forecast"])),
            ("capture", {"token": hold["token"]}),
            ("charge", {"apiKey": key, "tool": "forecast", "amount": 1}),
            ("charge", {"apiKey": key, "tool": "forecast", "amount": "0.001"}),
            ("check", {"api_key": key, "server": "weather"}),
            ("quote", hold_of(hub, versions["forecast"])),
            ("void", {"token": "x.y.z"}),
            ("hold", {"server": "weather"}),
        ]
        requests = [{"id": f"b-{place}", "act": act, "body": body} for place, (act, body) in enumerate(acts)]
        requests.append({"id": "b-9", "act": "refund", "body": {}, "of": "chg_0000000000000"})
        answers = (await client.post("/v1/batch", json={"requests": requests})).json()["answers"]
    assert [answer["id"] for answer in answers] == [request["id"] for request in requests]
    assert [answer["status"] for answer in answers] == [200, 200, 400, 200, 200, 200, 404, 400, 404]
    assert answers[7]["body"] == {"error": "invalid_request", "message": "`name` is missing; nothing was done"}
    assert hub.ada.account()[1:3] == (994_000, 5_000)
    hub.audited()


async def test_a_batch_that_is_sent_again_does_nothing_twice(hub: Hub) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        charge = {"api_key": hub.ada.key.text, "tool": "forecast", "amount": "0.004"}
        requests = [
            {"id": "b-1", "act": "hold", "body": hold_of(hub, versions["forecast"])},
            {"id": "b-2", "act": "charge", "body": charge},
            {"id": "b-3", "act": "charge", "body": {**charge, "idempotency_key": "consumers-own"}},
        ]
        first, second = [(await client.post("/v1/batch", json={"requests": requests})).json()["answers"] for _ in range(2)]
    assert first[0]["body"]["hold"] == second[0]["body"]["hold"]
    assert [each["body"]["replayed"] for each in (*first[1:], *second[1:])] == [False, False, True, True]
    assert hub.ada.account()[1:3] == (992_000, 5_000)


async def test_what_breaks_in_one_act_of_a_batch_stays_its_own(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    async with hub.client() as client:
        versions = await publish(client)
        good = {"id": "good", "act": "hold", "body": hold_of(hub, versions["forecast"])}
        bad = {"id": "bad", "act": "capture", "body": {"token": _broken_token(hub)}}
        answers = (await client.post("/v1/batch", json={"requests": [bad, good]})).json()["answers"]
    assert [answer["status"] for answer in answers] == [500, 200]
    assert answers[0]["body"]["error"] == "internal_error"
    assert "a capture of a batch broke" in caplog.text


async def test_what_breaks_in_one_request_is_said_without_its_insides(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    async with hub.client(**{"X-Request-Id": "mine"}) as client:
        broken = {"hold": "hold_0000000000001", "token": _broken_token(hub)}
        answer = await end(client, broken, "capture")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "whether anything was booked is not known" in answer.json()["message"]
    assert "capture broke (request mine)" in caplog.text


def _broken_token(hub: Hub) -> str:
    """A token that this ledger signed, with facts that no hold has."""
    facts = [1, 0, 1, hub.ann.id, 5, ["weather"], "tool", "forecast", DIGEST, 7, DIGEST, "", "", None]
    return hub.connection.ledger.ring.seal({"hold": facts})


async def test_a_full_batch_is_taken_and_a_larger_one_is_not(hub: Hub) -> None:
    async with hub.client() as client:
        await publish(client, forecast="0.000001")
        charge = {"api_key": hub.ada.key.text, "tool": "forecast", "amount_micros": 1}
        requests = [{"id": f"b-{n}", "act": "charge", "body": charge} for n in range(257)]
        full = (await client.post("/v1/batch", json={"requests": requests[:256]})).json()["answers"]
        larger = await client.post("/v1/batch", json={"requests": requests})
        empty = await client.post("/v1/batch", json={"requests": []})
    assert {answer["status"] for answer in full} == {200}
    assert len({answer["body"]["charge_id"] for answer in full}) == 256
    assert (larger.status_code, empty.status_code) == (400, 400)
    assert hub.ada.account().balance_micros == 1_000_000 - 256
    hub.audited()


async def test_acts_at_once_never_spend_more_than_there_is(hub: Hub) -> None:
    """Threat T1: a balance of $1.00 pays for ten calls of $0.10, from whichever request they come."""
    answers: list[dict[str, Any]] = []
    async with hub.client() as client:
        versions = await publish(client, forecast="0.1")

        async def send(sender: int) -> None:
            requests = [{"id": f"{sender}-{n}", "act": "hold", "body": hold_of(hub, versions["forecast"])} for n in range(8)]
            answers.extend((await client.post("/v1/batch", json={"requests": requests})).json()["answers"])

        async with anyio.create_task_group() as tasks:
            for sender in range(4):
                tasks.start_soon(send, sender)
    assert sorted(answer["status"] for answer in answers) == [200] * 10 + [402] * 22
    hub.audited()


def test_every_act_of_a_batch_is_an_endpoint_too() -> None:
    handlers = {endpoint.handler.__name__ for endpoint in ENDPOINTS}
    assert {acting.handler.__name__ for acting in ACTS.values()} <= handlers
