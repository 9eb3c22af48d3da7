"""Webhooks of Stripe: who signed them and when; stripe.md sections 4.1 and 4.2. The package's own verifier is the measure."""

import json
import time
from typing import Any

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.clock import US_PER_S
from payre_mcp.errors import WebhookInvalid
from payre_mcp.processors.base import Endpoint, Event
from payre_mcp.processors.stripe_webhooks import TOLERANCE_S, read_event

NOW = 1_767_225_600
SECRET, OLD_SECRET, OTHER = "whsec_new", "whsec_old", "whsec_other"

SNAPSHOT = {
    "id": "evt_1",
    "object": "event",
    "type": "checkout.session.completed",
    "livemode": False,
    "created": NOW,
    "data": {"object": {"id": "cs_test_1", "object": "checkout.session"}},
}
THIN = {
    "id": "evt_test_2",
    "object": "v2.core.event",
    "type": "v2.core.account[requirements].updated",
    "livemode": False,
    "created": "2026-01-01T00:00:00.250Z",
    "context": "acct_1",
    "related_object": {"id": "acct_1", "type": "v2.core.account", "url": "/v2/core/accounts/acct_1"},
}
BODY = json.dumps(SNAPSHOT)


def signature(body: str = BODY, secret: str = SECRET, at: int = NOW) -> str:
    return stripe.WebhookSignature.generate_signature_header(body, secret, at)  # pyright: ignore[reportUnknownMemberType]


def scheme(body: str = BODY, secret: str = SECRET, at: int = NOW) -> str:
    return signature(body, secret, at).partition("v1=")[2]


def read(body: str | bytes, header: str | None, *secrets: str, endpoint: Endpoint = "platform", now: float = NOW) -> Event:
    raw = body if isinstance(body, bytes) else body.encode()
    return read_event(endpoint, raw, header, secrets or (SECRET,), int(now * US_PER_S))


def accepts(body: str | bytes, header: str | None, *secrets: str, now: float = NOW) -> bool:
    try:
        read(body, header, *secrets, now=now)
    except WebhookInvalid:
        return False
    return True


def package_accepts(body: str | bytes, header: str | None, secret: str, now: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What the package's verifier says, at this moment: it reads the machine's clock."""
    monkeypatch.setattr(time, "time", lambda: now)
    try:
        stripe.WebhookSignature.verify_header(body, header, secret, TOLERANCE_S)  # pyright: ignore[reportUnknownMemberType]
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        return False
    finally:
        monkeypatch.undo()
    return True


CASES: dict[str, tuple[str | bytes, str | None, float]] = {
    "signed just now": (BODY, signature(), NOW),
    "signed 300 s ago": (BODY, signature(at=NOW - 300), NOW),
    "signed 300.5 s ago": (BODY, signature(at=NOW - 300), NOW + 0.5),
    "signed 301 s ago": (BODY, signature(at=NOW - 301), NOW),
    "signed a year ago": (BODY, signature(at=NOW - 31_536_000), NOW),
    "signed a little ahead": (BODY, signature(at=NOW + 299), NOW),
    "no header": (BODY, None, NOW),
    "an empty header": (BODY, "", NOW),
    "another secret": (BODY, signature(secret=OTHER), NOW),
    "another body": (BODY + " ", signature(), NOW),
    "another time than was signed": (BODY, f"t={NOW + 1},v1={scheme()}", NOW),
    "no time": (BODY, f"v1={scheme()}", NOW),
    "a time that is no number": (BODY, f"t=now,v1={scheme()}", NOW),
    "a time with blanks": (BODY, f"t= {NOW} ,v1={scheme()}", NOW),
    "a time with underscores": (BODY, f"t=1_767_225_600,v1={scheme()}", NOW),
    "a time below zero": (BODY, signature(at=-NOW), NOW),
    "a huge time": (BODY, f"t={'9' * 5_000},v1={scheme()}", NOW),
    "two times, the first signed": (BODY, f"t={NOW},t={NOW - 9_999},v1={scheme()}", NOW),
    "two times, the second signed": (BODY, f"t={NOW - 9_999},t={NOW},v1={scheme()}", NOW),
    "a time with two signs": (BODY, f"t={NOW}=7,v1={scheme()}", NOW),
    "no signature": (BODY, f"t={NOW}", NOW),
    "an empty signature": (BODY, f"t={NOW},v1=", NOW),
    "a signature of another scheme": (BODY, f"t={NOW},v0={scheme()}", NOW),
    "a blank before the scheme": (BODY, f"t={NOW}, v1={scheme()}", NOW),
    "an upper-case signature": (BODY, f"t={NOW},v1={scheme().upper()}", NOW),
    "several signatures, one right": (BODY, f"t={NOW},v1={'0' * 64},v1={scheme()},v0=x", NOW),
    "several signatures, none right": (BODY, f"t={NOW},v1={'0' * 64},v1={'1' * 64}", NOW),
    "a signature that is not ASCII": (BODY, f"t={NOW},v1=\xe9", NOW),
    "a header of commas": (BODY, ",,,", NOW),
    "not UTF-8": (b"\xff\xfe" + BODY.encode(), signature(), NOW),
}


@pytest.mark.parametrize("case", CASES)
def test_a_signature_is_good_where_the_package_says_so(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, header, now = CASES[case]
    assert accepts(body, header, now=now) == package_accepts(body, header, SECRET, now, monkeypatch)


def test_the_table_has_good_signatures_and_bad_ones() -> None:
    good = {case for case, (body, header, now) in CASES.items() if accepts(body, header, now=now)}
    assert good == {
        "signed just now",
        "signed 300 s ago",
        "signed a little ahead",
        "a time with blanks",
        "a time with underscores",
        "two times, the first signed",
        "a time with two signs",
        "several signatures, one right",
    }


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=f"tv01=, {scheme()[:3]}{NOW}") | st.text())
def test_whatever_a_header_says_nothing_but_a_refusal_comes_of_it(header: str) -> None:
    with pytest.raises(WebhookInvalid):
        read(BODY, header)


def test_a_signature_from_the_future_is_refused_though_the_package_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead, is_good in ((300, True), (301, False), (9_999_999, False)):
        header = signature(at=NOW + ahead)
        assert accepts(BODY, header) is is_good
        assert package_accepts(BODY, header, SECRET, NOW, monkeypatch)


def test_while_a_secret_is_rolled_both_are_good() -> None:
    for secret in (SECRET, OLD_SECRET):
        assert accepts(BODY, signature(secret=secret), SECRET, OLD_SECRET)
        assert accepts(BODY, signature(secret=secret), OLD_SECRET, SECRET)
    assert not accepts(BODY, signature(secret=OTHER), SECRET, OLD_SECRET)


@pytest.mark.parametrize("secrets", [(), ("",), ("  ",)])
def test_without_a_secret_nothing_is_good(secrets: tuple[str, ...]) -> None:
    for secret in ("", "  "):
        with pytest.raises(WebhookInvalid):
            read_event("platform", BODY.encode(), signature(secret=secret), secrets, NOW * US_PER_S)


def test_a_snapshot_says_what_changed() -> None:
    assert read(BODY, signature()) == Event(
        id="evt_1",
        kind="checkout.session.completed",
        object_id="cs_test_1",
        livemode=False,
        account="",
        created_at=NOW * US_PER_S,
        body=BODY,
    )


def test_a_thin_event_says_what_changed_and_of_whom() -> None:
    body = json.dumps(THIN)
    assert read(body, signature(body), endpoint="thin") == Event(
        id="evt_test_2",
        kind="v2.core.account[requirements].updated",
        object_id="acct_1",
        livemode=False,
        account="acct_1",
        created_at=NOW * US_PER_S + 250_000,
        body=body,
    )


@pytest.mark.parametrize(
    ("endpoint", "change", "object_id", "account"),
    [
        ("connect", {"account": "acct_1"}, "cs_test_1", "acct_1"),
        ("connect", {"account": "acct_1", "type": "account.application.deauthorized"}, "acct_1", "acct_1"),
        ("platform", {"type": "balance.available", "data": {"object": {"object": "balance"}}}, "", ""),
        ("platform", {"type": "news.of.a.later.year"}, "cs_test_1", ""),
        ("thin", {"related_object": None}, "acct_1", "acct_1"),
        ("thin", {"related_object": None, "context": None}, "", ""),
        ("thin", {"type": "v2.of.a.later.year"}, "acct_1", "acct_1"),
    ],
)
def test_an_event_names_what_is_to_be_looked_at_again(
    endpoint: Endpoint, change: dict[str, Any], object_id: str, account: str
) -> None:
    body = json.dumps({**(THIN if endpoint == "thin" else SNAPSHOT), **change})
    event = read(body, signature(body), endpoint=endpoint)
    assert (event.object_id, event.account) == (object_id, account)


@pytest.mark.parametrize(
    "body",
    ["", "null", "7", "[]", "{}", "{", '"evt_1"', "[" * 100_000, json.dumps({**SNAPSHOT, "livemode": "false"})]
    + [json.dumps({name: value for name, value in SNAPSHOT.items() if name != missing}) for missing in ("id", "type", "livemode")]
    + [
        json.dumps({**SNAPSHOT, "created": None}),
        json.dumps({**SNAPSHOT, "id": None}),
        json.dumps({**SNAPSHOT, "object": "charge"}),
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(body: str) -> None:
    with pytest.raises(WebhookInvalid, match="is no event"):
        read(body, signature(body))


@pytest.mark.parametrize(
    ("endpoint", "event"), [("platform", THIN), ("connect", THIN), ("thin", SNAPSHOT), ("thin", {**THIN, "created": "yesterday"})]
)
def test_thin_and_snapshot_each_have_their_endpoint(endpoint: Endpoint, event: dict[str, Any]) -> None:
    body = json.dumps(event)
    with pytest.raises(WebhookInvalid, match=f"no event for the {endpoint} endpoint"):
        read(body, signature(body), endpoint=endpoint)


@pytest.mark.parametrize("case", [case for case, (body, header, now) in CASES.items() if not accepts(body, header, now=now)])
def test_a_refusal_repeats_nothing_that_was_sent(case: str) -> None:
    body, header, now = CASES[case]
    with pytest.raises(WebhookInvalid) as caught:
        read(body, header, now=now)
    assert "nothing of it was used" in caught.value.message
    assert not any(secret in caught.value.message for secret in (SECRET, "cs_test_1", scheme()))
