"""Errors: the contract of DESIGN.md section 7; a code is the snake_case of its class and never changes."""

import re
from collections.abc import Iterator

import pytest

from payre_mcp import errors
from payre_mcp.errors import (
    InProgress,
    InsufficientBalance,
    PaymentRequired,
    PayoutNotReady,
    PayreError,
    PayreUnavailable,
    PriceAboveLimit,
    PriceSpecInvalid,
    Problem,
    ProcessorError,
    ReceiptInvalid,
    ResultNotStored,
    SpendLimit,
    WebhookInvalid,
)

_LINE = re.compile(r"(?P<indent>[| ]*)(?:\+-- )?(?P<name>[A-Z]\w+) *(?P<code>[a-z]\w+)? *(?P<status>[45]\d\d)?(?P<rest>.*)")


def family(root: type[PayreError]) -> Iterator[type[PayreError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def drawn() -> dict[str, re.Match[str]]:
    """The lines of the tree at the top of the module, by class name."""
    tree = (errors.__doc__ or "").split("\n\n")[1]
    matches = [_LINE.fullmatch(line) for line in tree.splitlines()]
    return {match["name"]: match for match in matches if match}


CLASSES = [each for each in family(PayreError) if each.__module__ == errors.__name__]


def test_every_code_is_unique() -> None:
    codes = [each.code for each in family(PayreError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", CLASSES[1:])
def test_a_code_is_the_snake_case_of_its_class(cls: type[PayreError]) -> None:
    assert cls.code == re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def test_an_error_without_a_name_of_its_own_is_internal() -> None:
    assert (PayreError.code, PayreError.http_status, PayreError.retryable) == ("internal_error", 500, False)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_tree_drawn_in_the_module_tells_each_class_its_status_and_parent(cls: type[PayreError]) -> None:
    tree = drawn()
    line = tree[cls.__name__]
    assert line["status"] in (None, str(cls.http_status))
    assert ("retryable" in line["rest"]) == cls.retryable
    if cls is not PayreError:
        above = list(tree)[: list(tree).index(cls.__name__)]
        shallower = [name for name in above if name == "PayreError" or len(tree[name]["indent"]) < len(line["indent"])]
        assert cls.__mro__[1].__name__ == (shallower[-1] if line["indent"] else "PayreError")


def test_the_tree_draws_no_class_that_does_not_exist() -> None:
    assert sorted(drawn()) == sorted(each.__name__ for each in CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_what_it_means(cls: type[PayreError]) -> None:
    assert cls.__doc__


def test_data_holds_what_is_known_with_dollars_beside_micros() -> None:
    error = InsufficientBalance(price_micros=5_000, balance_micros=1_000, shortfall_micros=4_000)
    assert error.data() == {
        "price_micros": 5_000,
        "price_usd": "0.005",
        "balance_micros": 1_000,
        "balance_usd": "0.001",
        "shortfall_micros": 4_000,
        "shortfall_usd": "0.004",
    }


def test_an_error_without_words_still_says_that_nothing_was_charged() -> None:
    assert "nothing was charged" in str(PayreError())
    assert "nothing was charged" in str(PayreUnavailable())
    assert PayreError("the words").message == str(PayreError("the words")) == "the words"


def test_a_call_without_a_key_is_told_the_price_and_how_to_send_one() -> None:
    assert "$0.005" in str(PaymentRequired(price_micros=5_000))
    assert "X-Payre-Key" in str(PaymentRequired(price_micros=5_000))
    assert "Set PAYRE_KEY" in str(PaymentRequired(price_micros=5_000, hint="Set PAYRE_KEY"))


def test_a_consumer_without_money_is_told_every_amount_and_where_to_top_up() -> None:
    url = "https://hub.example/top-up"
    message = str(InsufficientBalance(price_micros=5_000, balance_micros=1_000, shortfall_micros=4_000, top_up_url=url))
    assert all(fact in message for fact in ("$0.005", "$0.001", "$0.004", url, "nothing was charged"))


def test_a_stranger_is_told_the_price_and_not_the_balance() -> None:
    message = str(InsufficientBalance(price_micros=5_000, hint="Run payre top-up"))
    assert "available" not in message
    assert "short" not in message
    assert "Run payre top-up" in message
    assert "Top up your balance" in str(InsufficientBalance(price_micros=5_000))


def test_a_price_above_the_callers_limit_names_both() -> None:
    error = PriceAboveLimit(price_micros=5_000, limit_micros=1_000)
    assert "$0.005" in str(error)
    assert "$0.001" in str(error)
    assert error.data()["limit_micros"] == 1_000


@pytest.mark.parametrize(
    ("window", "resets_at", "facts"),
    [
        ("call", None, ["per call"]),
        ("day", 1_767_312_000, ["per day", "starts anew at 2026-01-02 00:00 UTC"]),
        ("month", 1_769_904_000, ["per month", "starts anew at 2026-02-01 00:00 UTC"]),
        ("tool", 1_767_312_000, ["per day for this tool"]),
    ],
)
def test_a_key_at_its_limit_is_told_what_is_left_until_when_and_who_can_raise_it(
    window: str, resets_at: int | None, facts: list[str]
) -> None:
    error = SpendLimit(price_micros=50_000, limit_micros=1_000_000, left_micros=20_000, window=window, resets_at=resets_at)
    known = ["$0.05", "$1.00", "$0.02", "nothing was charged", "payre keys limits", *facts]
    assert all(fact in str(error) for fact in known)
    assert ("anew" in str(error)) == (resets_at is not None) == ("resets_at" in error.data())
    assert error.data()["left_usd"] == "0.02"


def test_a_bad_price_lists_every_problem_on_a_line_of_its_own() -> None:
    problems = [Problem("unknown_key", "price", "unknown key 'prize'"), Problem("price_syntax", "price.price", "not an amount")]
    error = PriceSpecInvalid(problems)
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == ["price: unknown_key: unknown key 'prize'", "price.price: price_syntax: not an amount"]


def test_errors_carry_their_own_facts() -> None:
    assert InProgress("wait", retry_after_s=2.5).data() == {"retry_after_s": 2.5}
    assert PayreUnavailable("full").data() == {"retry_after_s": 1.0}
    assert ResultNotStored("gone", receipt="a.b.c").data() == {"receipt": "a.b.c"}
    assert ResultNotStored("gone").data() == {}
    assert ReceiptInvalid("no", reason="unknown").data() == {"reason": "unknown"}


def test_a_processors_refusal_says_what_it_said_and_whether_it_may_have_acted() -> None:
    error = ProcessorError("no answer", reason="balance_insufficient", outcome_unknown=True, request_id="req_1")
    assert {"reason": "balance_insufficient", "outcome_unknown": True, "request_id": "req_1"}.items() <= error.data().items()
    assert not ProcessorError("refused").outcome_unknown


def test_what_is_wrong_with_the_outside_world_is_no_fault_of_ours() -> None:
    statuses = {each.code: each.http_status for each in (WebhookInvalid, PayoutNotReady, ProcessorError)}
    assert statuses == {"webhook_invalid": 400, "payout_not_ready": 409, "processor_error": 502}
