"""Receipts: RFC 7515 and RFC 7518, read by PyJWT as a second opinion; the attacks are those of RFC 8725."""

import base64
import hashlib
import hmac
import json
import pathlib
import string
from dataclasses import replace

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payre_mcp.errors import ReceiptInvalid
from payre_mcp.money import Money
from payre_mcp.receipts import KeyRing, Receipt, canonical_json, sha256_hex, verify_receipt

SECRET = bytes(range(64))
RING = KeyRing({"k1": SECRET})
RECEIPT = Receipt(
    charge_id="chg_0000000000001",
    issuer="payre-local",
    consumer="con_0000000000002",
    developer="dev_0000000000003",
    issued_at=1_767_225_600,
    mode="test",
    server="weather",
    kind="tool",
    name="forecast",
    amount_micros=5_000,
    fee_micros=150,
    quantities={"requests": 1},
    args_sha256=sha256_hex(b"{}"),
)
TOKEN = RING.sign(RECEIPT)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")
BASE64URL = string.ascii_letters + string.digits + "-_"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=8,
)
RECEIPTS = st.builds(
    Receipt,
    quantities=st.dictionaries(st.text(max_size=8), st.integers(0, 2**53), max_size=3),
    issued_at=st.integers(0, 2**40),
    amount_micros=st.integers(0, 2**53),
    **{name: st.text(max_size=12) for name in ("charge_id", "issuer", "consumer", "developer", "server", "kind", "name", "mode")},
)
quick = settings(max_examples=100, deadline=None)


def reason(token: str, ring: KeyRing = RING) -> str:
    with pytest.raises(ReceiptInvalid) as caught:
        ring.verify(token)
    assert caught.value.code == "receipt_invalid"
    return caught.value.reason


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(header: str, payload: str) -> str:
    """A token over any header and payload, with a signature that is right."""
    return f"{header}.{payload}.{encode(hmac.digest(SECRET, f'{header}.{payload}'.encode(), 'sha256'))}"


def test_a_receipt_survives_its_token() -> None:
    assert RING.verify(TOKEN) == verify_receipt(TOKEN, RING) == RECEIPT
    assert RECEIPT.amount == Money(5_000)


@quick
@given(RECEIPTS)
def test_any_receipt_survives_its_token(receipt: Receipt) -> None:
    assert RING.verify(RING.sign(receipt)) == receipt
    assert Receipt.from_claims(receipt.claims()) == receipt


def test_the_same_receipt_and_key_give_the_same_token() -> None:
    assert RING.sign(replace(RECEIPT)) == TOKEN


def test_another_library_verifies_our_token() -> None:
    claims = jwt.decode(TOKEN, SECRET, algorithms=["HS256"], audience=RECEIPT.developer, issuer="payre-local")
    assert claims == RECEIPT.claims()
    assert jwt.get_unverified_header(TOKEN) == {"alg": "HS256", "kid": "k1", "typ": "payre-receipt+jwt"}


def test_claims_have_their_registered_names_and_leave_out_what_is_unknown() -> None:
    claims = RECEIPT.claims()
    assert {name: claims[name] for name in ("jti", "iss", "sub", "aud", "iat", "v")} == {
        "jti": RECEIPT.charge_id,
        "iss": RECEIPT.issuer,
        "sub": RECEIPT.consumer,
        "aud": RECEIPT.developer,
        "iat": RECEIPT.issued_at,
        "v": 1,
    }
    assert not {"variant", "result_sha256", "charge_id"} & claims.keys()


def test_any_single_changed_character_voids_a_token() -> None:
    for place, right in enumerate(TOKEN):
        for wrong in set(BASE64URL + "+/=. é") - {right}:
            reason(TOKEN[:place] + wrong + TOKEN[place + 1 :])


def test_a_second_spelling_of_a_token_is_refused() -> None:
    """Base64 decoders skip padding, spaces, other alphabets and unused bits: none of it may pass here."""
    last = [SIGNATURE[:-1] + letter for letter in BASE64URL if letter != SIGNATURE[-1]]
    twins = [each for each in last if decode(each) == decode(SIGNATURE)]
    assert twins
    for signature in (*twins, SIGNATURE + "=", SIGNATURE + "==", f"{SIGNATURE[:9]}\n{SIGNATURE[9:]}", SIGNATURE + "\0"):
        assert reason(f"{HEADER}.{PAYLOAD}.{signature}") == "unknown"
    assert reason(f"{HEADER}=.{PAYLOAD}.{SIGNATURE}") == "unknown"
    assert reason(f"{HEADER}.{PAYLOAD}=.{SIGNATURE}") == "unknown"


def test_blanks_around_a_pasted_receipt_do_no_harm() -> None:
    assert RING.verify(f"  {TOKEN}\n") == RECEIPT


def test_the_algorithm_none_is_refused() -> None:
    token = jwt.encode(RECEIPT.claims(), "", algorithm="none", headers={"kid": "k1", "typ": "payre-receipt+jwt"})
    assert reason(token) == "unknown"
    assert reason(f"{token.rpartition('.')[0]}.{SIGNATURE}") == "unknown"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_under_the_right_secret_is_refused(algorithm: str) -> None:
    headers = {"kid": "k1", "typ": "payre-receipt+jwt"}
    assert reason(jwt.encode(RECEIPT.claims(), SECRET, algorithm=algorithm, headers=headers)) == "unknown"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "kid": "k2", "typ": "payre-receipt+jwt"},
        {"alg": "HS256", "typ": "payre-receipt+jwt"},
        {"alg": "HS256", "kid": "k1", "typ": "JWT"},
        {"alg": "HS256", "kid": "k1", "typ": "payre-receipt+jwt", "jku": "https://evil.example"},
        {"kid": "k1", "alg": "HS256", "typ": "payre-receipt+jwt"},
    ],
)
def test_a_header_that_is_not_exactly_ours_is_refused_whatever_its_signature(header: dict[str, str]) -> None:
    assert reason(signed(encode(json.dumps(header, separators=(",", ":")).encode()), PAYLOAD)) == "unknown"


def test_a_token_over_our_own_header_is_accepted_only_under_our_secret() -> None:
    assert signed(HEADER, PAYLOAD) == TOKEN
    assert reason(TOKEN, KeyRing({"k1": SECRET[::-1]})) == "unknown"


def test_a_changed_amount_under_the_old_signature_is_refused() -> None:
    _, payload, _ = RING.sign(replace(RECEIPT, amount_micros=1)).split(".")
    assert reason(f"{HEADER}.{payload}.{SIGNATURE}") == "unknown"


def test_a_signed_claim_that_this_version_does_not_know_is_refused_with_a_code() -> None:
    payload = encode(json.dumps({**RECEIPT.claims(), "claim_of_tomorrow": 1}).encode())
    reason(signed(HEADER, payload))


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d", "…", f"{TOKEN}é", f"{TOKEN}{' ' * 20_000}", "hello"])
def test_what_is_no_token_at_all_is_malformed(token: str) -> None:
    assert reason(token) == "malformed"


def test_a_rotated_ring_signs_with_the_new_key_and_keeps_old_receipts_valid() -> None:
    ring = RING.rotated()
    assert ring.sign(RECEIPT) != TOKEN
    assert ring.verify(TOKEN) == ring.verify(ring.sign(RECEIPT)) == RECEIPT
    assert reason(ring.sign(RECEIPT)) == "unknown"


def test_a_receipt_of_a_retired_key_is_unknown() -> None:
    assert reason(TOKEN, KeyRing({"k2": SECRET})) == "unknown"


def test_two_generated_rings_share_nothing() -> None:
    assert reason(KeyRing.generate().sign(RECEIPT), KeyRing.generate()) == "unknown"


def test_a_ring_survives_its_text_and_the_last_key_signs() -> None:
    ring = RING.rotated()
    copy = KeyRing.parse(ring.dump())
    assert copy.sign(RECEIPT) == ring.sign(RECEIPT)
    assert KeyRing.parse(ring.dump().replace("\n", ",")).verify(TOKEN) == RECEIPT


def test_a_ring_never_shows_its_secrets() -> None:
    assert repr(RING) == str(RING) == "KeyRing(k1)"


@pytest.mark.parametrize(
    "text", ["", "\n", "k1", f":{'A' * 43}", f"k-1:{'A' * 43}", f"ké:{'A' * 43}", "k1:c2hvcnQtc2VjcmV0", "k1:AAAAA"]
)
def test_a_ring_that_cannot_be_read_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        KeyRing.parse(text)
    assert text.partition(":")[2] not in str(caught.value) or ":" not in text


def test_a_ring_needs_a_key() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        KeyRing({})


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        KeyRing({"k1": SECRET, "k2": SECRET[:31]})


def test_a_key_file_is_made_once_and_is_its_owners_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "payre.keys"
    token = KeyRing.open_file(path).sign(RECEIPT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyRing.open_file(path).verify(token) == RECEIPT


def test_a_key_file_that_a_crash_left_empty_is_filled(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "payre.keys"
    path.touch()
    token = KeyRing.open_file(path).sign(RECEIPT)
    assert KeyRing.open_file(path).verify(token) == RECEIPT


def test_a_digest_does_not_depend_on_the_order_of_names() -> None:
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    assert sha256_hex(canonical_json({"a": 1, "b": 2})) == sha256_hex(canonical_json({"b": 2, "a": 1}))
    assert sha256_hex(b"{}") == hashlib.sha256(b"{}").hexdigest()


def test_a_lone_surrogate_has_a_digest_too() -> None:
    assert canonical_json("\ud800") == b'"\xed\xa0\x80"'


@quick
@given(JSON)
def test_canonical_json_says_what_the_value_said(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


def test_a_receipt_key_that_is_given_twice_is_refused() -> None:
    ring = KeyRing.generate().dump()
    with pytest.raises(ValueError, match="given twice"):
        KeyRing.parse(ring + ring)
