"""Keys: our own choice after the formats of GitHub and Stripe; the placeholder advice comes from real client mistakes."""

import hashlib
import string
import zlib
from itertools import pairwise

import pytest

from payre_mcp.errors import InvalidApiKey
from payre_mcp.keys import ApiKey, Mode, Role, new_key, parse_key

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
PINNED = "pyr_ck_test_" + "0" * 32 + "2SUVbW"


def rejection(text: str) -> str:
    with pytest.raises(InvalidApiKey) as caught:
        parse_key(text)
    assert caught.value.code == "invalid_api_key"
    return caught.value.message


def fresh() -> ApiKey:
    return new_key(Role.CONSUMER, Mode.TEST)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("mode", Mode)
def test_a_new_key_reads_back_with_its_role_and_mode(role: Role, mode: Mode) -> None:
    key = new_key(role, mode)
    assert parse_key(key.text) == key
    assert (key.role, key.mode) == (role, mode)
    assert key.text.startswith(f"pyr_{role}_{mode}_")
    assert len(key.text) == 50


def test_no_two_keys_are_alike() -> None:
    assert len({fresh().text for _ in range(100)}) == 100


def test_the_last_six_characters_are_the_crc_of_all_before() -> None:
    head, checksum = PINNED[:-6], PINNED[-6:]
    assert sum(BASE62.index(digit) * 62**place for place, digit in enumerate(reversed(checksum))) == zlib.crc32(head.encode())
    assert parse_key(PINNED) == ApiKey(PINNED, Role.CONSUMER, Mode.TEST)


def test_any_single_changed_character_is_caught() -> None:
    for place, right in enumerate(PINNED):
        for wrong in set(string.printable + "\N{ARABIC-INDIC DIGIT FIVE}") - {right}:
            rejection(PINNED[:place] + wrong + PINNED[place + 1 :])


def test_any_two_neighbours_in_the_wrong_order_are_caught() -> None:
    text = fresh().text
    for place, (one, two) in enumerate(pairwise(text)):
        if one != two:
            rejection(text[:place] + two + one + text[place + 2 :])


def test_a_character_too_many_or_too_few_is_caught() -> None:
    for place in range(len(PINNED)):
        rejection(PINNED[:place] + PINNED[place + 1 :])
        rejection(PINNED[:place] + "a" + PINNED[place:])
    rejection(PINNED + "\n")
    rejection(" " + PINNED)


@pytest.mark.parametrize(
    "text", ["${PAYRE_KEY}", "$PAYRE_KEY", "<key>", "YOUR_KEY", "your-key", "{{key}}", "pyr_ck_...", "PAYRE_KEY"]
)
def test_a_placeholder_is_told_about_the_variable_that_is_not_set(text: str) -> None:
    message = rejection(text)
    assert "environment variable is not set" in message
    assert text not in message.replace("PAYRE_KEY there", "")


@pytest.mark.parametrize("text", ["", "hunter2", "sk-live-0123456789", PINNED[:-1], PINNED[:-1] + "0", "pyr_ck_prod_" + "0" * 38])
def test_a_rejection_never_repeats_what_was_sent(text: str) -> None:
    message = rejection(text)
    assert "environment variable" not in message
    assert not text or text not in message


def test_a_damaged_key_and_other_text_are_told_apart() -> None:
    assert rejection(PINNED[:-1] + "0") != rejection("hunter2")


def test_the_text_of_a_key_never_shows() -> None:
    key = fresh()
    secret = key.text[12:-4]
    for shown in (repr(key), str(key), f"{key}", f"{[key]}", f"{key!r:>80}", key.shown):
        assert secret not in shown
        assert key.text[-4:] in shown


def test_only_the_ends_of_a_key_are_shown() -> None:
    assert parse_key(PINNED).shown == "pyr_ck_test_...UVbW"


def test_what_is_stored_of_a_key_is_its_sha_256() -> None:
    assert parse_key(PINNED).digest == hashlib.sha256(PINNED.encode()).digest()
