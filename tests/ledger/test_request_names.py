"""A remote seller's request that is asked again by its name finds the hold that it made, and makes no second one."""

from payre_mcp.ledger.model import Hold
from tests.ledger.commands import capture, done, hold, is_sound, money, refused, replayed, rich, void


def named(number: int, amount: int = 10, *, nonce: str = "n", fingerprint: str = "f") -> Hold:
    return hold(number, amount, key="k", fingerprint=fingerprint)._replace(nonce=nonce)


def test_a_request_that_is_asked_again_finds_its_hold() -> None:
    books = rich()
    first = done(books.one(named(2)))
    again = done(books.one(named(3)))
    assert (again.transfer, again.replayed) == (first.transfer, False)
    assert (list(books.holds), money(books)[1]) == ([2], 10)
    assert is_sound(books)


def test_a_request_of_another_name_or_none_is_a_call_in_progress() -> None:
    books = rich()
    done(books.one(named(2)))
    assert refused(books, named(3, nonce="other")) == "in_progress"
    assert refused(books, named(3, nonce="")) == "in_progress"
    assert refused(books, named(3, fingerprint="other")) == "idempotency_conflict"


def test_a_request_whose_hold_has_ended_is_told_so_and_one_that_was_paid_is_answered() -> None:
    books = rich()
    books.run(named(2), void(3, of=2))
    assert refused(books, named(4)) == "hold_not_open"
    books.run(named(5, nonce="again"), capture(6, 10, of=5))
    assert replayed(books, named(7, nonce="again")).transfer.id == 6
