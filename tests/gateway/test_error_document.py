"""Errors between hub and seller: each arrives as what it was, whatever else arrives is still an error of ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payre_mcp import errors
from payre_mcp.errors import (
    Forbidden,
    InProgress,
    InsufficientBalance,
    InvalidApiKey,
    KeyRejected,
    PaymentRequired,
    PayreError,
    PayreUnavailable,
    PriceAboveLimit,
    PriceSpecInvalid,
    Problem,
    ProcessorError,
    RateLimited,
    ReceiptInvalid,
    ResultNotStored,
    SpendLimit,
    Unauthorized,
)
from payre_mcp.gateway.error_document import document_of, error_of

EXAMPLES: dict[type[PayreError], list[PayreError]] = {
    KeyRejected: [KeyRejected("no such key"), KeyRejected("no such key.", hint="Set PAYRE_KEY")],
    Unauthorized: [Unauthorized("this is no secret key")],
    InvalidApiKey: [InvalidApiKey("revoked"), InvalidApiKey("revoked", hint="Ask for a new one")],
    Forbidden: [Forbidden("bound to another server")],
    PaymentRequired: [PaymentRequired(price_micros=5_000), PaymentRequired(price_micros=0, hint="Send a key")],
    InsufficientBalance: [
        InsufficientBalance(price_micros=5_000),
        InsufficientBalance(price_micros=5_000, balance_micros=1, shortfall_micros=4_999, top_up_url="https://pay.example/t"),
        InsufficientBalance(price_micros=5_000, hint="Run payre top-up"),
    ],
    PriceAboveLimit: [PriceAboveLimit(price_micros=2**53 - 1, limit_micros=0)],
    SpendLimit: [
        SpendLimit(price_micros=5_000, limit_micros=9_000, left_micros=1, window="day", resets_at=1_767_312_000),
        SpendLimit(price_micros=5_000, limit_micros=9_000, left_micros=0, window="call"),
    ],
    InProgress: [InProgress("still runs", retry_after_s=2.5)],
    ResultNotStored: [ResultNotStored("gone"), ResultNotStored("gone", receipt="a.b.c")],
    RateLimited: [RateLimited("too many", retry_after_s=59.5)],
    ReceiptInvalid: [ReceiptInvalid("no receipt", reason="malformed")],
    PriceSpecInvalid: [
        PriceSpecInvalid([Problem("unknown_key", "price", "unknown key 'prize'"), Problem("a", "b", "c", 14)], source="p.yaml"),
        PriceSpecInvalid([]),
    ],
    ProcessorError: [
        ProcessorError("refused"),
        ProcessorError("no answer", reason="no_answer", outcome_unknown=True, request_id="req_1"),
        ProcessorError("too much", reason="rate_limit", try_later=True),
    ],
    PayreUnavailable: [PayreUnavailable(), PayreUnavailable("busy", retry_after_s=30.0)],
}
"""Errors with facts of their own. One that is only a sentence needs no example."""


def family(root: type[PayreError]) -> Iterator[type[PayreError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


CLASSES = [each for each in family(PayreError) if each.__module__ == errors.__name__]


def examples(kind: type[PayreError]) -> list[PayreError]:
    """Examples of a class; of one that takes a sentence alone, two made up."""
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    assert kind.__init__ in (Exception.__init__, PayreError.__init__), f"{kind.__name__} has facts: give it examples"
    return [kind("what happened, and what to do: nöthing"), kind()]


@pytest.mark.parametrize("error", [each for kind in CLASSES for each in examples(kind)], ids=repr)
def test_every_error_arrives_as_what_it_was(error: PayreError) -> None:
    arrived = error_of(json.loads(json.dumps(document_of(error))))
    assert type(arrived) is type(error)
    assert arrived.message == error.message
    assert arrived.data() == error.data()
    assert document_of(arrived) == document_of(error)


@pytest.mark.parametrize("error", EXAMPLES[PriceSpecInvalid], ids=repr)
def test_the_problems_of_a_price_arrive_one_by_one(error: PriceSpecInvalid) -> None:
    arrived = error_of(json.loads(json.dumps(document_of(error))))
    assert isinstance(arrived, PriceSpecInvalid)
    assert arrived.problems == error.problems


def test_a_code_of_a_newer_version_keeps_its_sentence() -> None:
    arrived = error_of({"error": "card_stolen", "message": "the card was stolen; nothing was charged", "card": "visa"})
    assert type(arrived) is PayreError
    assert arrived.message == "the card was stolen; nothing was charged"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"error": "payre_unavailable"},
        {"error": None, "message": None},
        {"error": ["insufficient_balance"], "message": "no"},
        {"detail": "Not Found"},
    ],
)
def test_what_is_no_error_document_means_that_nobody_knows(document: dict[str, Any]) -> None:
    arrived = error_of(document)
    assert isinstance(arrived, PayreUnavailable)
    assert arrived.retryable


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FACTS = [
    "price_micros", "balance_micros", "shortfall_micros", "limit_micros", "left_micros", "window", "resets_at", "top_up_url",
    "hint", "retry_after_s", "receipt", "reason", "problems", "source", "message", "self", "args",
]  # fmt: skip


@given(
    code=st.sampled_from([kind.code for kind in CLASSES]) | PLAIN,
    message=st.text(max_size=30) | PLAIN,
    facts=st.dictionaries(st.sampled_from(FACTS), PLAIN, max_size=6),
)
def test_no_document_makes_anything_but_an_error_of_ours(code: object, message: object, facts: dict[str, object]) -> None:
    arrived = error_of({**facts, "error": code, "message": message})
    assert isinstance(arrived.message, str)
    assert json.dumps(document_of(arrived))


@given(
    error=st.sampled_from([each for kind in CLASSES for each in examples(kind)]),
    name=st.sampled_from(FACTS),
    value=PLAIN,
)
def test_a_fact_of_another_type_spoils_no_more_than_the_document(error: PayreError, name: str, value: object) -> None:
    document = {**document_of(error), name: value}
    arrived = error_of(document)
    assert isinstance(arrived.message, str)
    assert json.dumps(document_of(arrived))
