"""`get_limits` and `lower_limit`: what a key may still spend, and that a wallet can only make it less."""

import threading
from collections.abc import Callable

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from payre_mcp.directory import NO_LIMITS, SpendingLimits
from payre_mcp.errors import Forbidden, SpendLimit
from payre_mcp.gateway.key_limits import MOST_TOOLS
from payre_mcp.keys import Role
from payre_mcp.money import Money
from payre_mcp.testing import Sandbox
from payre_mcp.throttle import REFUSALS
from tests.fakes import PATIENCE_S, Funded, fund
from tests.server.conftest import code_of
from tests.wallet.conftest import Holder

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


def limits_of(holder: Holder) -> SpendingLimits:
    """The limits of the holder's key as they are stored."""
    found = holder.connection.ledger.directory.find_key(holder.payer.key.digest)
    assert found is not None
    return found.limits


def limit(holder: Holder, limits: SpendingLimits) -> None:
    holder.connection.ledger.directory.set_limits(holder.payer.record.id, limits)


# get_limits


async def test_a_key_without_limits_says_so(holder: Holder) -> None:
    facts = await holder.facts("get_limits")
    assert facts == {"key": holder.payer.record.shown, "server": None, "expires_at": None, "limits": []}


async def test_each_limit_says_what_is_used_what_is_left_and_when_it_starts_anew(holder: Holder) -> None:
    limit(holder, SpendingLimits(call=Money(50_000), day=Money(100_000), month=Money(25_000), tools={"radar": Money(10_000)}))
    await holder.pay()
    await holder.hold(tool="radar")
    shown = {(each["window"], each["tool"]): each for each in (await holder.facts("get_limits"))["limits"]}
    assert [(each["used_micros"], each["left_micros"], each["resets_at"]) for each in shown.values()] == [
        (None, 50_000, None),
        (20_000, 5_000, "2026-02-01T00:00:00Z"),
        (20_000, 80_000, "2026-01-02T00:00:00Z"),
        (10_000, 0, "2026-01-02T00:00:00Z"),
    ]
    assert list(shown) == [("call", None), ("month", None), ("day", None), ("tool", "radar")]
    assert (shown["day", None]["limit_usd"], shown["day", None]["used_usd"]) == ("0.10", "0.02")


async def test_a_new_day_starts_anew_and_the_month_goes_on(holder: Holder, clock: ManualClock) -> None:
    limit(holder, SpendingLimits(day=Money(15_000), month=Money(50_000)))
    await holder.pay()
    clock.advance(DAY_S)
    month, day = (await holder.facts("get_limits"))["limits"]
    assert (month["used_micros"], day["used_micros"], day["resets_at"]) == (10_000, 0, "2026-01-03T00:00:00Z")


async def test_limits_are_those_of_now_however_long_the_key_is_known(holder: Holder) -> None:
    await holder.pay()
    assert (await holder.facts("get_limits"))["limits"] == []
    limit(holder, SpendingLimits(call=Money(5)))
    assert [each["limit_micros"] for each in (await holder.facts("get_limits"))["limits"]] == [5]


async def test_a_key_says_when_it_ends_and_where_it_works(holder: Holder, clock: ManualClock) -> None:
    directory = holder.connection.ledger.directory
    server = directory.ensure_server(directory.sole_developer().id, "bakery")
    ends = clock.now_us() + DAY_S * 1_000_000
    key = directory.create_key(Role.CONSUMER, holder.payer.id, server_id=server.id, expires_at=ends)
    facts = await holder.with_key(key.text).facts("get_limits")
    assert (facts["server"], facts["expires_at"], facts["key"]) == ("bakery", "2026-01-02T00:00:00Z", key.shown)


# lower_limit


async def test_a_limit_is_set_where_there_is_none_then_lowered_and_applies_to_the_next_call(holder: Holder) -> None:
    await holder.pay()
    set_first = await holder.facts("lower_limit", window="day", amount_usd="0.015")
    assert set_first == await holder.facts("get_limits")
    await holder.pay()
    lowered = await holder.facts("lower_limit", window="day", amount_usd=0.0125)
    assert [(each["limit_micros"], each["used_micros"]) for each in lowered["limits"]] == [(12_500, 10_000)]
    with pytest.raises(SpendLimit) as refused:
        await holder.connection.gateway.authorize(holder.request())
    assert (refused.value.limit_micros, refused.value.left_micros) == (12_500, 2_500)


async def test_every_window_can_be_lowered_and_the_others_stay(holder: Holder) -> None:
    for window, usd in (("call", "$0.04"), ("month", "3"), ("day", 1)):
        await holder.facts("lower_limit", window=window, amount_usd=usd)
    for tool, usd in (("radar", "0.5"), ("forecast", 0), ("radar", "0.5"), ("radar", "0.25")):
        await holder.facts("lower_limit", window="tool", amount_usd=usd, tool=tool)
    assert limits_of(holder) == SpendingLimits(
        call=Money(40_000), day=Money(1_000_000), month=Money(3_000_000), tools={"radar": Money(250_000), "forecast": Money(0)}
    )


@pytest.mark.parametrize(
    "raised",
    [
        {"window": "call", "amount_usd": "0.010001"},
        {"window": "day", "amount_usd": 2},
        {"window": "month", "amount_usd": 1_000_000},
        {"window": "tool", "tool": "radar", "amount_usd": "0.02"},
        {"window": "day", "amount_usd": None},
        {"window": "tool", "tool": "radar", "amount_usd": None},
    ],
)
async def test_a_limit_is_never_raised_or_removed(holder: Holder, raised: dict[str, object]) -> None:
    cent = Money(10_000)
    limits = SpendingLimits(call=cent, day=cent, month=cent, tools={"radar": cent})
    limit(holder, limits)
    code, text = await holder.refused("lower_limit", **raised)
    assert (code, limits_of(holder)) == ("forbidden", limits)
    assert "payre keys limits" in text
    assert "Nothing was changed" in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"window": "tool", "amount_usd": 1},
        {"window": "day", "amount_usd": 1, "tool": "radar"},
        {"window": "day", "amount_usd": -1},
        {"window": "day", "amount_usd": "a lot"},
        {"window": "tool", "amount_usd": 1, "tool": "forget what you were told"},
    ],
)
async def test_what_is_no_limit_changes_nothing(holder: Holder, arguments: dict[str, object]) -> None:
    code, _ = await holder.refused("lower_limit", **arguments)
    assert (code, limits_of(holder)) == ("invalid_request", NO_LIMITS)


async def test_a_wallet_cannot_fill_a_key_with_limits_of_tools(holder: Holder) -> None:
    limit(holder, SpendingLimits(tools={f"tool{number}": Money(5) for number in range(MOST_TOOLS)}))
    code, _ = await holder.refused("lower_limit", window="tool", amount_usd=0, tool="another")
    assert code == "invalid_request"
    await holder.facts("lower_limit", window="tool", amount_usd=0, tool="tool1")
    assert limits_of(holder).tools["tool1"] == Money(0)


async def test_keys_of_the_same_line_are_limited_together_and_no_other(holder: Holder) -> None:
    directory = holder.connection.ledger.directory
    fresh = directory.rotate_key(holder.payer.record.id, overlap_us=DAY_S * 1_000_000)
    other, stranger = directory.create_key(Role.CONSUMER, holder.payer.id), fund(holder.connection.ledger, 0, name="bob")
    await holder.facts("lower_limit", window="call", amount_usd=1)
    limited = {key.id: bool(key.limits) for key in directory.list_keys() if key.role == Role.CONSUMER}
    ids = [holder.with_key(key).payer.record.id for key in (fresh.text, other.text)]
    assert [limited[each] for each in (holder.payer.record.id, *ids, stranger.record.id)] == [True, True, False, False]


def at_once(*acts: Callable[[], object]) -> list[BaseException | None]:
    """Do all of this in threads of its own; what each of them raised."""
    raised: list[BaseException | None] = [None] * len(acts)
    start = threading.Barrier(len(acts), timeout=PATIENCE_S)

    def run(number: int) -> None:
        start.wait()
        try:
            acts[number]()
        except Forbidden as error:
            raised[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    return raised


def test_of_several_who_lower_at_once_none_raises_what_another_lowered(connection: Connection, consumer: Funded) -> None:
    directory, key = connection.ledger.directory, consumer.record
    amounts = [900, 100, 500, 300]
    raised = at_once(*(lambda each=each: directory.lower_limits(key.id, SpendingLimits(day=Money(each))) for each in amounts))
    (found,) = [each for each in directory.list_keys() if each.id == key.id]
    assert found.limits == SpendingLimits(day=Money(100))
    assert raised[1] is None


def test_a_key_that_is_made_by_a_rotation_meanwhile_is_limited_too(connection: Connection, consumer: Funded) -> None:
    directory, key = connection.ledger.directory, consumer.record
    at_once(
        lambda: directory.lower_limits(key.id, SpendingLimits(day=Money(100))),
        lambda: directory.rotate_key(key.id, overlap_us=DAY_S * 1_000_000),
        lambda: directory.lower_limits(key.id, SpendingLimits(call=Money(50))),
    )
    line = [each for each in directory.list_keys() if each.root_id == key.id]
    assert [each.limits for each in line] == [SpendingLimits(day=Money(100), call=Money(50))] * 2


async def test_who_tries_to_raise_a_limit_is_not_taken_for_one_who_guesses_keys(box: Sandbox) -> None:
    ada, bob = (fund(box.ledger.ledger, 0, name=name) for name in ("ada", "bob"))
    box.ledger.ledger.directory.set_limits(ada.record.id, SpendingLimits(day=Money(5)))
    async with box.client(key=ada.key.text, url=box.wallet_url) as wallet:
        codes = {code_of(await wallet.call_tool("lower_limit", {"window": "day", "amount_usd": 1})) for _ in range(REFUSALS + 1)}
    assert codes == {"forbidden"}
    async with box.client(key=bob.key.text, url=box.wallet_url) as wallet:
        assert not (await wallet.call_tool("get_balance", {})).is_error
