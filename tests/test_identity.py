"""Whose key a request carries: every place a key may stand in, and the ones it must never come from."""

from typing import Any

import pytest

from payre_mcp.errors import InvalidApiKey
from payre_mcp.identity import caller_key, request_headers, request_meta, serving_stdio
from payre_mcp.keys import parse_key

KEY, OTHER = "pyr_ck_test_one", "pyr_ck_test_two"
PLACES: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"x-payre-key": KEY}, {}),
    ({"x-agentpay-api-key": KEY}, {}),
    ({"authorization": f"Bearer {KEY}"}, {}),
    ({}, {"dev.payre/key": KEY}),
]


def refusal(headers: dict[str, str] | None, meta: dict[str, Any]) -> str:
    with pytest.raises(InvalidApiKey) as caught:
        caller_key(headers, meta)
    return caught.value.message


@pytest.mark.parametrize(("headers", "meta"), PLACES)
def test_a_key_is_found_wherever_a_client_may_put_it(headers: dict[str, str], meta: dict[str, Any]) -> None:
    assert caller_key(headers, meta) == KEY


def test_agentpays_header_is_an_alias() -> None:
    """AgentPay: `X-AGENTPAY-API-KEY`."""
    assert caller_key({"x-agentpay-api-key": KEY, "x-payre-key": ""}, {}) == KEY


@pytest.mark.parametrize("token", [f"bearer {KEY}", f"BEARER   {KEY} ", f"Bearer {KEY}"])
def test_the_bearer_scheme_is_read_in_any_case_and_spacing(token: str) -> None:
    assert caller_key({"authorization": token}, {}) == KEY


@pytest.mark.parametrize("token", ["Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "Bearer ghp_secret", f"Basic {KEY}", "Bearer", "", KEY])
def test_an_authorization_that_is_not_ours_is_the_hosts_own_business(token: str) -> None:
    assert caller_key({"authorization": token}, {}) is None
    assert caller_key({"authorization": token, "x-payre-key": KEY}, {}) == KEY


@pytest.mark.parametrize("first", range(len(PLACES)))
@pytest.mark.parametrize("second", range(len(PLACES)))
def test_two_different_keys_in_one_request_are_refused_and_one_key_twice_is_not(first: int, second: int) -> None:
    headers, meta = (PLACES[first][0] | PLACES[second][0], PLACES[first][1] | PLACES[second][1])
    assert caller_key(headers, meta) == KEY
    if first == second:
        return
    headers |= {name: value.replace(KEY, OTHER) for name, value in PLACES[second][0].items()}
    meta |= dict.fromkeys(PLACES[second][1], OTHER)
    message = refusal(headers, meta)
    assert KEY not in message
    assert OTHER not in message


def test_a_key_of_another_role_beside_a_consumers_key_is_a_second_key() -> None:
    refusal({"x-payre-key": KEY, "authorization": "Bearer pyr_sk_test_three"}, {})


@pytest.mark.parametrize("text", ["${PAYRE_KEY}", "$PAYRE_KEY", "YOUR_KEY", "<your key>", "pyr_ck_..."])
@pytest.mark.parametrize("name", ["x-payre-key", "authorization"])
def test_a_placeholder_is_handed_on_so_that_the_error_can_name_it(text: str, name: str) -> None:
    found = caller_key({name: f"Bearer {text}" if name == "authorization" else text}, {})
    assert found == text
    with pytest.raises(InvalidApiKey) as caught:
        parse_key(text)
    assert "variable is not set" in caught.value.message


def test_a_placeholder_beside_a_key_is_refused_rather_than_guessed() -> None:
    refusal({"x-payre-key": KEY, "authorization": "Bearer ${PAYRE_KEY}"}, {})


@pytest.mark.parametrize("value", [7, ["pyr"], {"key": KEY}, True])
def test_a_key_in_meta_must_be_text(value: Any) -> None:
    refusal({}, {"dev.payre/key": value})


def test_a_request_without_a_key_has_none() -> None:
    assert caller_key({}, {}) is None
    assert caller_key(None, {}) is None


@pytest.mark.parametrize("blank", ["", "   "])
def test_an_empty_header_is_no_key(blank: str) -> None:
    assert caller_key({"x-payre-key": blank, "x-agentpay-api-key": blank}, {}) is None


def test_on_stdio_the_variable_pays_for_a_call_without_a_key_of_its_own() -> None:
    with serving_stdio(KEY):
        assert caller_key(None, {}) == KEY
        assert caller_key(None, {"dev.payre/key": OTHER}) == OTHER
    assert caller_key(None, {}) is None


def test_the_variable_never_pays_for_a_stranger_over_http() -> None:
    with serving_stdio(KEY):
        assert caller_key({}, {}) is None
        assert caller_key({"authorization": "Bearer eyJ.e30.x"}, {}) is None


def test_off_stdio_the_variable_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYRE_KEY", KEY)
    assert caller_key(None, {}) is None
    assert caller_key({}, {}) is None


def test_a_stdio_server_inside_another_ends_with_its_own_block() -> None:
    with serving_stdio(KEY):
        with serving_stdio(None):
            assert caller_key(None, {}) is None
        assert caller_key(None, {}) == KEY


@pytest.mark.parametrize("params", [None, {}, {"_meta": None}, {"_meta": "text"}, {"_meta": ["a"]}])
def test_absent_or_malformed_meta_is_empty(params: dict[str, Any] | None) -> None:
    assert request_meta(params) == {}


def test_what_is_no_http_request_has_no_headers() -> None:
    assert request_headers(None) is None
    assert request_headers(object()) is None
