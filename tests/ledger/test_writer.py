"""Group commit, promise by promise (DESIGN.md section 5): who is answered when, who is split out, and that nobody hangs.

The store is the real one on SQLite, with hooks between its steps (`tests.fakes.ScriptedStore`).
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from payre_mcp.clock import US_PER_S
from payre_mcp.errors import HoldUnknown, PayreUnavailable
from payre_mcp.gateway.waiting import AsyncWriter
from payre_mcp.ledger.model import (
    Capture,
    Charge,
    Command,
    Done,
    Extend,
    Extended,
    Hold,
    Kind,
    Refund,
    TopUp,
    Transfer,
    Void,
    born,
)
from payre_mcp.ledger.store import StoreBusy, StoreLost, StoreUnavailable
from payre_mcp.ledger.writer import BATCH_LIMIT, HOLD_LIFE_US, Writer
from payre_mcp.storage.embedded import EmbeddedLedger
from payre_mcp.storage.sqlite import SqliteStore
from tests.fakes import (
    PATIENCE_S,
    Funded,
    Gate,
    Inbox,
    ScriptedStore,
    code_of,
    done,
    finish,
    fund,
    journal_of,
    open_holds_of,
    start_python,
)
from tests.ledger.desk import Death, Desk, poison, raiser


def refund_of(payer: Funded, charge: Transfer, micros: int, key: str) -> Refund:
    return Refund(payer.ledger.ids.new(), payer.record.part, charge.id, payer.id, payer.developer_id, micros, key)


async def until_quiet(asker: AsyncWriter, payer: Funded) -> None:
    """Two round trips: what was given back when the first came home has ended when the second does."""
    for _ in range(2):
        with suppress(HoldUnknown):
            await asker.ask(payer.void(1))


# --- answers and batches


def test_a_caller_is_answered_only_after_its_commit(desk: Desk) -> None:
    seen: list[bool] = []
    charge = desk.payer.charge(7)
    gate = Gate()
    desk.store.before_commit = gate
    inbox = Inbox(on_delivery=lambda answers: seen.append(desk.payer.row(charge.id) is not None))
    _, tickets = desk.submit(charge, inbox=inbox)
    gate.wait_reached()
    assert inbox.deliveries == []
    assert desk.payer.row(charge.id) is None
    gate.open()
    assert done(inbox.answer(*tickets)).transfer == desk.payer.row(charge.id)
    assert seen == [True]


def test_what_queues_up_during_a_commit_goes_in_one_transaction_and_one_wake_up(desk: Desk) -> None:
    gate = Gate()
    desk.store.before_commit = gate
    inbox, first = desk.submit(desk.payer.charge(1))
    gate.wait_reached()
    _, rest = desk.submit(*(desk.payer.charge(1) for _ in range(100)), inbox=inbox)
    gate.open()
    assert {code_of(answer) for answer in inbox.answers(first + rest)} == {"done"}
    assert [len(decision.transfers) for decision in desk.store.committed] == [1, 100]
    assert [len(answers) for answers in inbox.deliveries] == [1, 100]
    assert desk.payer.account().balance_micros == 1_000_000 - 101


def test_a_queue_longer_than_a_batch_goes_in_several(desk: Desk) -> None:
    answers = desk.behind(*(desk.payer.charge(1) for _ in range(BATCH_LIMIT + 88)))
    assert {code_of(answer) for answer in answers} == {"done"}
    assert [len(decision.transfers) for decision in desk.store.committed] == [1, BATCH_LIMIT, 88]


def test_each_mailbox_is_woken_once_per_batch(desk: Desk) -> None:
    gate = Gate()
    desk.store.before_commit = gate
    first, first_ticket = desk.submit(desk.payer.charge(1))
    gate.wait_reached()
    left, right = Inbox(), Inbox()
    tickets = [(inbox, *desk.submit(desk.payer.charge(1), inbox=inbox)[1]) for _ in range(5) for inbox in (left, right)]
    gate.open()
    first.answers(first_ticket)
    for inbox, ticket in tickets:
        done(inbox.answer(ticket))
    assert [len(left.deliveries), len(right.deliveries)] == [1, 1]


def test_alone_a_command_goes_at_once(desk: Desk) -> None:
    for n in range(1, 6):
        assert desk.writer.ask(desk.payer.charge(1)).account.balance_micros == 1_000_000 - n
        assert len(desk.store.committed) == n


def test_a_refusal_in_a_batch_leaves_its_neighbours_alone(desk: Desk) -> None:
    answers = desk.behind(desk.payer.charge(10), desk.payer.charge(5_000_000), desk.payer.charge(10))
    assert [code_of(answer) for answer in answers] == ["done", "insufficient_balance", "done"]
    assert len(desk.store.committed) == 2


def test_a_batch_that_changes_nothing_commits_nothing(desk: Desk) -> None:
    assert [code_of(answer) for answer in desk.answers(desk.payer.charge(5_000_000))] == ["insufficient_balance"]
    assert desk.store.committed == []


def test_holds_voids_and_expiries_alone_skip_the_disk_and_all_else_waits_for_it(desk: Desk) -> None:
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.writer.ask(desk.payer.void(hold.id))
    other = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.writer.ask(desk.payer.capture(other.id, 5))
    desk.writer.ask(desk.payer.top_up(5, key="more"))
    desk.writer.ask(desk.payer.charge(5))
    desk.writer.ask(desk.payer.hold(10))
    desk.clock.advance(901)
    assert desk.writer.sweep() == 1
    assert desk.store.begun == [False, False, False, True, True, True, False, False]


def test_one_capture_makes_its_whole_batch_durable(desk: Desk) -> None:
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.behind(desk.payer.hold(1), desk.payer.capture(hold.id, 10), desk.payer.hold(1))
    assert desk.store.begun[-1] is True


# --- a poison command


@pytest.mark.parametrize("place", [0, 5, 10])
def test_a_poison_command_fails_alone(desk: Desk, place: int) -> None:
    desk.store.on_apply = poison("poison")
    commands = [desk.payer.charge(1) for _ in range(10)]
    commands.insert(place, desk.payer.charge(1, tool="poison"))
    codes = [code_of(answer) for answer in desk.behind(*commands)]
    assert codes.pop(place) == "internal_error"
    assert set(codes) == {"done"}
    assert desk.payer.account().balance_micros == 1_000_000 - 11
    assert desk.is_clean()


def test_two_poison_commands_fail_alone(desk: Desk) -> None:
    desk.store.on_apply = poison("poison")
    tools = ["a", "poison", "b", "c", "d", "poison", "e"]
    codes = [code_of(answer) for answer in desk.behind(*(desk.payer.charge(1, tool=tool) for tool in tools))]
    assert codes == ["internal_error" if tool == "poison" else "done" for tool in tools]


def test_a_command_that_the_database_itself_refuses_fails_alone(desk: Desk) -> None:
    """Two rows of one id: what the unique key refuses is poison too."""
    again = desk.payer.charge(1)
    desk.writer.ask(again)
    codes = [code_of(answer) for answer in desk.behind(desk.payer.charge(1), again, desk.payer.charge(1))]
    assert codes == ["done", "internal_error", "done"]
    assert desk.is_clean()


def test_the_writer_goes_on_after_a_poison_command(desk: Desk) -> None:
    desk.store.on_apply = poison("poison")
    assert [code_of(answer) for answer in desk.answers(desk.payer.charge(1, tool="poison"))] == ["internal_error"]
    assert done(desk.writer.ask(desk.payer.charge(1))).account.balance_micros == 999_999


# --- a full queue


def test_a_full_queue_still_takes_the_end_of_a_call_that_was_let_in(desk: Desk) -> None:
    store = ScriptedStore(desk.new_store())
    small = desk._replace(store=store, writer=Writer(store, desk.clock, desk.ledger.ids, queue_limit=1, sweep_every_s=3600))
    paid, given_back = (small.writer.ask(desk.payer.hold(5)).transfer.id for _ in range(2))
    gate = Gate()
    store.before_commit = gate
    inbox, tickets = small.submit(desk.payer.charge(1))
    gate.wait_reached()
    tickets += small.submit(desk.payer.charge(1), inbox=inbox)[1]
    tickets += small.submit(desk.payer.capture(paid, 5), desk.payer.void(given_back), inbox=inbox)[1]
    gate.open()
    assert {code_of(answer) for answer in inbox.answers(tickets)} == {"done"}
    small.writer.close()


@pytest.mark.parametrize("trouble", [StoreBusy("locked"), StoreUnavailable("disk is full")])
def test_a_capture_that_found_the_database_in_trouble_is_charged_at_a_later_sweep(desk: Desk, trouble: Exception) -> None:
    held = desk.writer.ask(desk.payer.hold(5)).transfer.id

    def fail() -> None:
        raise trouble

    desk.store.before_commit = fail
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.capture(held, 5))
    desk.writer.sweep()
    assert desk.payer.account().held_micros == 5
    desk.store.before_commit = lambda: None
    desk.writer.sweep()
    desk.writer.sweep()
    assert (desk.payer.account().balance_micros, desk.payer.account().held_micros) == (999_995, 0)


def test_a_full_queue_refuses_at_once_and_queues_nothing(desk: Desk) -> None:
    store = ScriptedStore(desk.new_store())
    writer = Writer(store, desk.clock, desk.ledger.ids, queue_limit=3, sweep_every_s=3600)
    small = desk._replace(store=store, writer=writer)
    gate = Gate()
    store.before_commit = gate
    inbox, tickets = small.submit(desk.payer.charge(1))
    gate.wait_reached()
    tickets += small.submit(*(desk.payer.charge(1) for _ in range(3)), inbox=inbox)[1]
    refused = desk.payer.charge(1)
    with pytest.raises(PayreUnavailable) as refusal:
        small.submit(refused, inbox=inbox)
    assert refusal.value.retryable
    assert inbox.deliveries == []  # the gate still stands: the refusal waited for nobody
    gate.open()
    assert {code_of(answer) for answer in inbox.answers(tickets)} == {"done"}
    done(writer.ask(desk.payer.charge(1)))
    writer.close()
    assert desk.payer.row(refused.id) is None
    assert desk.payer.account().balance_micros == 1_000_000 - 5


# --- a caller who left


async def test_a_hold_whose_caller_left_while_it_queued_is_never_made(desk: Desk) -> None:
    asker, gate = AsyncWriter(desk.writer), Gate()
    hold = desk.payer.hold(10)
    desk.store.before_commit = gate
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(asker.ask, desk.payer.charge(1))
            await anyio.to_thread.run_sync(gate.wait_reached)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(asker.ask, hold)
                await anyio.wait_all_tasks_blocked()
                leaving.cancel_scope.cancel()
            gate.open()
        await until_quiet(asker, desk.payer)
    assert desk.payer.row(hold.id) is None
    assert desk.payer.account().held_micros == 0


async def test_a_hold_whose_caller_left_while_it_was_committed_is_voided(desk: Desk) -> None:
    asker, gate = AsyncWriter(desk.writer), Gate()
    hold = desk.payer.hold(10)
    desk.store.before_commit = gate
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(asker.ask, hold)
            await anyio.to_thread.run_sync(gate.wait_reached)
            leaving.cancel_scope.cancel()
        gate.open()
        await until_quiet(asker, desk.payer)
    assert desk.payer.row(hold.id) is not None
    assert [row.kind for row in journal_of(desk.ledger) if row.ref_id == hold.id] == [Kind.VOID]
    assert desk.payer.account().held_micros == 0


async def test_a_hold_whose_caller_leaves_in_the_moment_of_its_answer_is_voided_or_heard_of(desk: Desk) -> None:
    """The answer is on its way to the loop, not yet read, when the cancellation comes."""
    asker, gate, delivered = AsyncWriter(desk.writer), Gate(), Inbox()
    hold = desk.payer.hold(10)
    heard: list[Done] = []

    async def call() -> None:
        heard.append(await asker.ask(hold))

    desk.store.before_commit = gate
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(call)
            await anyio.to_thread.run_sync(gate.wait_reached)
            # From here to the cancellation the loop does not run: the answer arrives while it stands still.
            _, after = desk.submit(desk.payer.charge(1), inbox=delivered)
            gate.open()
            delivered.answers(after)
            leaving.cancel_scope.cancel()
        await until_quiet(asker, desk.payer)
    assert desk.payer.account().held_micros == (10 if heard else 0)


async def test_a_charge_whose_caller_left_stays_charged(desk: Desk) -> None:
    asker, gate = AsyncWriter(desk.writer), Gate()
    charge = desk.payer.charge(10)
    desk.store.before_commit = gate
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(asker.ask, charge)
            await anyio.to_thread.run_sync(gate.wait_reached)
            leaving.cancel_scope.cancel()
        gate.open()
        await until_quiet(asker, desk.payer)
    assert desk.payer.account().balance_micros == 1_000_000 - 10


async def test_a_replayed_hold_is_not_given_back_when_its_caller_leaves(desk: Desk) -> None:
    """What the caller would have heard is an older charge; there is nothing to void."""
    asker, gate = AsyncWriter(desk.writer), Gate()
    with anyio.fail_after(PATIENCE_S):
        await asker.ask(desk.payer.charge(10, key="once"))
        desk.store.on_begin = gate
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(asker.ask, desk.payer.hold(10, key="once"))
            await anyio.to_thread.run_sync(gate.wait_reached)
            leaving.cancel_scope.cancel()
        gate.open()
        await until_quiet(asker, desk.payer)
    assert [row.kind for row in journal_of(desk.ledger)] == [Kind.TOP_UP, Kind.CHARGE]


async def test_one_loop_is_woken_for_all_its_callers_and_each_gets_its_own_answer(desk: Desk) -> None:
    asker, gate = AsyncWriter(desk.writer), Gate()
    heard: dict[int, Done] = {}

    async def call(amount: int) -> None:
        heard[amount] = await asker.ask(desk.payer.charge(amount))

    desk.store.before_commit = gate
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            for amount in range(1, 65):
                group.start_soon(call, amount)
            await anyio.to_thread.run_sync(gate.wait_reached)
            gate.open()
    assert {amount: each.transfer.amount_micros for amount, each in heard.items()} == {n: n for n in range(1, 65)}


# --- a loop that has closed


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_closed_before_the_answer_does_not_stop_the_writer_and_its_hold_is_given_back(
    desk: Desk, backend: str
) -> None:
    gate = Gate()
    desk.store.before_commit = gate
    hold = desk.payer.hold(10)

    async def ask_and_go() -> None:
        AsyncWriter(desk.writer).submit(hold)
        await anyio.to_thread.run_sync(gate.wait_reached)

    anyio.run(ask_and_go, backend=backend)
    gate.open()
    assert done(desk.writer.ask(desk.payer.charge(1))).transfer.amount_micros == 1
    done(desk.writer.ask(desk.payer.charge(1)))  # queued after the void
    assert [row.kind for row in journal_of(desk.ledger) if row.ref_id == hold.id] == [Kind.VOID]
    assert desk.payer.account().held_micros == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_writer_serves_one_loop_after_another(desk: Desk, backend: str) -> None:
    asker = AsyncWriter(desk.writer)
    for n in range(1, 4):
        answer = anyio.run(asker.ask, desk.payer.charge(1), backend=backend)
        assert answer.account.balance_micros == 1_000_000 - n


# --- a process that forked

FORKED = """
import os, sys
from pathlib import Path
from payre_mcp.clock import SystemClock
from payre_mcp.errors import PayreUnavailable
from payre_mcp.storage.embedded import open_embedded
from tests.fakes import fund

ledger = open_embedded(Path(sys.argv[1]), SystemClock())
payer = fund(ledger, 100)
child = os.fork()
if child == 0:
    try:
        ledger.writer.ask(payer.charge(1))
    except PayreUnavailable:
        ledger.writer.close()
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(ledger.writer.ask(payer.charge(1)).account.balance_micros)
ledger.close()
"""


def test_a_forked_child_is_refused_and_its_parent_goes_on(ledger_path: Path) -> None:
    assert finish(start_python(FORKED, ledger_path)).strip() == "99"


SWEPT_IN_CHILD = """
import os, signal, sys
from pathlib import Path
from payre_mcp.clock import SystemClock
from payre_mcp.errors import PayreUnavailable
from payre_mcp.storage.embedded import open_embedded

ledger = open_embedded(Path(sys.argv[1]), SystemClock())
child = os.fork()
if child == 0:
    signal.alarm(3)
    try:
        ledger.writer.sweep()
    except PayreUnavailable:
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ledger.close()
"""


def test_a_sweep_in_a_forked_child_is_refused_and_does_not_hang(ledger_path: Path) -> None:
    assert finish(start_python(SWEPT_IN_CHILD, ledger_path)).strip() == "7"


# --- a writer that dies


def test_a_writer_that_dies_answers_all_who_queue(desk: Desk) -> None:
    gate = Gate()

    def stand_and_die() -> None:
        gate()
        raise Death

    desk.store.before_commit = stand_and_die
    desk.submit(desk.payer.charge(1))
    gate.wait_reached()
    inbox, tickets = desk.submit(*(desk.payer.charge(1) for _ in range(20)))
    gate.open()
    assert [code_of(answer) for answer in inbox.answers(tickets)] == ["payre_unavailable"] * 20


def test_a_writer_that_dies_answers_the_batch_it_held(desk: Desk) -> None:
    desk.store.before_commit = raiser(Death())
    inbox, tickets = desk.submit(desk.payer.charge(1))
    desk.writer.close()  # joins the thread: after this no answer can come any more
    assert [code_of(answer) for answers in inbox.deliveries for answer in answers] == ["payre_unavailable"]
    assert inbox.answer(*tickets)
    assert desk.payer.account().balance_micros == 1_000_000


async def test_a_coroutine_whose_writer_dies_does_not_hang(desk: Desk) -> None:
    desk.store.on_begin = raiser(Death())
    with anyio.move_on_after(2) as patience:
        with pytest.raises(PayreUnavailable):
            await AsyncWriter(desk.writer).ask(desk.payer.charge(1))
    assert not patience.cancelled_caught


def test_a_writer_that_died_refuses_later_commands_and_sweeps_and_lets_go_of_the_store(desk: Desk) -> None:
    desk.store.on_begin = raiser(Death())
    desk.submit(desk.payer.charge(1))
    desk.writer.close()
    assert desk.store.closed
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.charge(1))
    with pytest.raises(PayreUnavailable):
        desk.writer.sweep()


def test_a_writer_that_dies_in_a_sweep_lets_the_asker_go(desk: Desk) -> None:
    desk.store.on_expired = raiser(Death())
    assert desk.writer.sweep() == 0
    desk.writer.close()
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.charge(1))


def test_closing_finishes_what_is_queued_and_then_refuses(desk: Desk) -> None:
    gate = Gate()
    desk.store.before_commit = gate
    inbox, tickets = desk.submit(desk.payer.charge(1))
    gate.wait_reached()
    _, more = desk.submit(*(desk.payer.charge(1) for _ in range(10)), inbox=inbox)
    gate.open()
    desk.writer.close()
    assert {code_of(answer) for answer in inbox.answers(tickets + more)} == {"done"}
    with pytest.raises(PayreUnavailable):
        desk.writer.ask(desk.payer.charge(1))
    desk.writer.close()


# --- a database in trouble


@pytest.mark.parametrize("trouble", [StoreBusy("locked"), StoreUnavailable("disk is full")])
@pytest.mark.parametrize("step", ["on_begin", "before_commit"])
def test_a_database_that_cannot_be_written_answers_payre_unavailable_and_works_again_later(
    desk: Desk, trouble: Exception, step: str
) -> None:
    setattr(desk.store, step, raiser(trouble))
    codes = [code_of(answer) for answer in desk.answers(*(desk.payer.charge(1) for _ in range(5)))]
    assert codes == ["payre_unavailable"] * 5
    setattr(desk.store, step, lambda: None)
    assert done(desk.writer.ask(desk.payer.charge(1))).account.balance_micros == 999_999
    assert desk.is_clean()


def test_a_database_that_is_busy_once_is_tried_again_unseen(desk: Desk) -> None:
    desk.store.on_begin = raiser(StoreBusy("locked"), times=1)
    assert done(desk.writer.ask(desk.payer.charge(1))).account.balance_micros == 999_999
    assert len(desk.store.committed) == 1


def test_a_hold_that_cannot_be_given_back_now_expires_by_itself(desk: Desk) -> None:
    answer = desk.writer.ask(desk.payer.hold(5))
    desk.store.on_begin = raiser(StoreUnavailable("disk is full"))
    desk.writer.give_back(answer)
    desk.writer.sweep()
    assert desk.payer.account().held_micros == 5
    desk.store.on_begin = lambda: None
    desk.clock.advance(901)
    desk.writer.sweep()
    assert desk.payer.account().held_micros == 0


def test_a_sweep_that_waits_for_a_writer_that_dies_returns(desk: Desk) -> None:
    gate = Gate()

    def die() -> None:
        gate()
        raise SystemExit

    desk.store.before_commit = die
    inbox, tickets = desk.submit(desk.payer.charge(1))
    gate.wait_reached()
    swept: list[int] = []
    waiting = threading.Thread(target=lambda: swept.append(desk.writer.sweep()))
    waiting.start()
    while not desk.writer._sweeps:  # pyright: ignore[reportPrivateUsage]
        pass  # it has asked as soon as its request stands here; there is no public sign of that
    gate.open()
    waiting.join(PATIENCE_S)
    assert swept == [0]
    assert code_of(inbox.answers(tickets)[0]) == "payre_unavailable"


def test_a_sweep_of_a_busy_database_is_left_to_the_next_one(desk: Desk) -> None:
    desk.writer.ask(desk.payer.hold(10))
    desk.clock.advance(901)
    desk.store.on_expired = raiser(StoreBusy("locked"), times=1)
    assert desk.writer.sweep() == 0
    assert desk.writer.sweep() == 1
    assert desk.payer.account().held_micros == 0


@pytest.mark.parametrize("kind", ["top-up", "hold", "capture", "void", "charge", "refund"])
def test_a_commit_whose_outcome_is_unknown_is_resolved_without_doing_it_twice(desk: Desk, kind: str) -> None:
    payer = desk.payer
    to_capture, to_void = (desk.writer.ask(payer.hold(100)).transfer for _ in range(2))
    command: TopUp | Hold | Capture | Void | Charge | Refund = {
        "top-up": payer.top_up(5_000, key="pay"),
        "hold": payer.hold(30, key="keyed"),
        "capture": payer.capture(to_capture.id, 60),
        "void": payer.void(to_void.id),
        "charge": payer.charge(7),
        "refund": refund_of(payer, desk.writer.ask(payer.charge(1_000)).transfer, 400, "back"),
    }[kind]
    rows = len(journal_of(desk.ledger))
    desk.store.after_commit = raiser(StoreBusy("the answer was lost"), times=1)
    answer = desk.writer.ask(command)
    assert answer.transfer == payer.row(command.id)
    assert not answer.replayed
    assert len(journal_of(desk.ledger)) == rows + 1
    assert desk.is_clean()


def test_a_whole_batch_whose_commit_is_unknown_answers_the_rows_of_the_first_try(desk: Desk) -> None:
    payer = desk.payer
    to_capture, to_void, to_extend = (desk.writer.ask(payer.hold(100)).transfer for _ in range(3))
    charge = desk.writer.ask(payer.charge(1_000)).transfer
    commands = (
        payer.top_up(5_000, key="pay"),
        payer.hold(30, key="keyed"),
        payer.capture(to_capture.id, 60),
        payer.void(to_void.id),
        payer.charge(7, key="charged"),
        payer.charge(8),
        refund_of(payer, charge, 400, "back"),
    )
    extend = Extend(payer.record.part, to_extend.id, payer.id, to_extend.expires_at + 5)
    before = payer.account()
    lost = raiser(StoreBusy("the answer was lost"), times=1)
    *answers, extended, refused = desk.behind(
        *commands, extend, payer.charge(9_000_000), and_then=lambda: setattr(desk.store, "after_commit", lost)
    )
    assert [done(answer).transfer for answer in answers] == [payer.row(command.id) for command in commands]
    assert not any(done(answer).replayed for answer in answers)
    assert isinstance(extended, Extended)
    assert (extended.hold.id, extended.hold.expires_at) == (to_extend.id, to_extend.expires_at + 5)
    assert code_of(refused) == "insufficient_balance"
    after = payer.account()
    assert after.balance_micros - before.balance_micros == 5_000 - 60 - 7 - 8 + 400 - 1
    assert after.held_micros - before.held_micros == 30 - 200
    assert desk.is_clean()


# --- holds that end by themselves


def test_a_hold_that_nobody_ends_expires_by_itself(desk: Desk) -> None:
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.clock.advance(HOLD_LIFE_US / US_PER_S - 1)
    assert desk.writer.sweep() == 0
    assert desk.payer.account().held_micros == 10
    desk.clock.advance(2)
    assert desk.writer.sweep() == 1
    assert [row.kind for row in journal_of(desk.ledger) if row.ref_id == hold.id] == [Kind.EXPIRE]
    assert desk.payer.account().held_micros == 0
    assert desk.writer.sweep() == 0


def test_a_hold_whose_call_still_runs_is_extended_instead(desk: Desk) -> None:
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.writer.keep_alive(born(hold))
    for _ in range(5):
        desk.clock.advance(600)
        assert desk.writer.sweep() == 0
    assert open_holds_of(desk.ledger)[hold.id].expires_at > desk.clock.now_us()
    desk.writer.let_go(hold.id)
    desk.clock.advance(901)
    assert desk.writer.sweep() == 1


def test_a_running_hold_outlives_a_pause_longer_than_its_life(desk: Desk) -> None:
    """A laptop that slept: the call still runs here, so its hold is not swept away by its own process."""
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.writer.keep_alive(born(hold))
    desk.clock.advance(10_000)
    assert desk.writer.sweep() == 0
    assert done(desk.writer.ask(desk.payer.capture(hold.id, 10))).transfer.kind == Kind.CAPTURE


def test_an_extension_that_found_the_database_busy_is_tried_again_at_the_next_sweep(desk: Desk) -> None:
    """Otherwise another process's sweeper expires the hold of a call that still runs here."""
    hold = done(desk.writer.ask(desk.payer.hold(10))).transfer
    desk.writer.keep_alive(born(hold))
    desk.clock.advance(600)
    desk.store.on_begin = raiser(StoreBusy("locked"), times=2)
    desk.writer.sweep()
    desk.writer.sweep()
    assert open_holds_of(desk.ledger)[hold.id].expires_at == desk.clock.now_us() + HOLD_LIFE_US


def test_more_expired_holds_than_a_batch_are_swept_in_turn(desk: Desk) -> None:
    desk.answers(*(desk.payer.hold(1) for _ in range(BATCH_LIMIT + 10)))
    desk.clock.advance(901)
    assert [desk.writer.sweep(), desk.writer.sweep(), desk.writer.sweep()] == [BATCH_LIMIT, 10, 0]
    assert desk.payer.account().held_micros == 0
    assert desk.is_clean()


# --- beside a busy thread


def test_charges_go_on_beside_a_thread_that_never_waits(desk: Desk) -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    spinner = threading.Thread(target=spin)
    spinner.start()
    try:
        assert {code_of(answer) for answer in desk.answers(*(desk.payer.charge(1) for _ in range(300)))} == {"done"}
        for _ in range(3):
            done(desk.writer.ask(desk.payer.charge(1)))
    finally:
        stop.set()
        spinner.join()


class CountedConnection:
    """Counts the statements that a store gives to its connection; each is one call, and lets go of the lock once."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.statements = 0

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        self.statements += 1
        return self._connection.execute(sql, parameters)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        self._connection.close()


class CountedStore(SqliteStore):
    """The store over a connection that counts, and that has no way to run one statement many times."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._connection = self.counted = CountedConnection(self._connection)


def _charges(payer: Funded, _writer: Writer, size: int) -> Sequence[Command]:
    return [payer.charge(1) for _ in range(size)]


def _keyed_charges(payer: Funded, _writer: Writer, size: int) -> Sequence[Command]:
    return [payer.charge(1, key=f"c{n}") for n in range(size)]


def _holds(payer: Funded, _writer: Writer, size: int) -> Sequence[Command]:
    return [payer.hold(1) for _ in range(size)]


def _top_ups(payer: Funded, _writer: Writer, size: int) -> Sequence[Command]:
    return [payer.top_up(1, key=f"t{n}") for n in range(size)]


def _captures(payer: Funded, writer: Writer, size: int) -> Sequence[Command]:
    holds = [writer.ask(payer.hold(2, key=f"k{n}")).transfer.id for n in range(size)]
    return [payer.capture(hold, 1, result="{}") for hold in holds]


def _voids(payer: Funded, writer: Writer, size: int) -> Sequence[Command]:
    return [payer.void(writer.ask(payer.hold(2)).transfer.id) for _ in range(size)]


def _refused_captures(payer: Funded, writer: Writer, size: int) -> Sequence[Command]:
    voids = _voids(payer, writer, size)
    return [payer.capture(writer.ask(void).transfer.ref_id, 1) for void in voids]


def _refunds(payer: Funded, writer: Writer, size: int) -> Sequence[Command]:
    return [refund_of(payer, writer.ask(payer.charge(2)).transfer, 1, f"r{n}") for n in range(size)]


def _everything(payer: Funded, writer: Writer, size: int) -> Sequence[Command]:
    kinds = (_captures, _voids, _refunds, _keyed_charges)
    return [command for kind in kinds for command in kind(payer, writer, size // len(kinds))]


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "kind",
    [_charges, _keyed_charges, _holds, _top_ups, _captures, _voids, _refused_captures, _refunds, _everything],
)
def test_a_batch_of_400_takes_as_many_statements_as_one_of_8(
    desk: Desk, kind: Callable[[Funded, Writer, int], Sequence[Command]]
) -> None:
    """Every step of a statement lets go of the interpreter lock, and a busy thread gives it back late."""
    assert isinstance(desk.ledger, EmbeddedLedger)
    store = CountedStore(desk.ledger.path)
    counted, scripted = store.counted, ScriptedStore(store)
    writer = Writer(scripted, desk.clock, desk.ledger.ids, sweep_every_s=3600)
    counts: list[int] = []
    for size in (8, 400):
        payer = fund(desk.ledger, 1_000_000, writer=writer)
        batch = kind(payer, writer, size)
        begins: list[int] = []

        def note(begins: list[int] = begins) -> None:
            begins.append(counted.statements)

        scripted.on_begin = note
        desk._replace(store=scripted, writer=writer, payer=payer).behind(*batch)
        assert len(begins) == 2, "one transaction for what stood before, one for the whole batch"
        counts.append(counted.statements - begins[-1])
        scripted.on_begin = lambda: None
    writer.close()
    assert counts[0] == counts[1]


class Gone(StoreLost):
    """A connection that breaks and stays so, without the patience of a real one."""

    tries, pause_s = 2, 0.0


def test_a_hold_of_which_nobody_knows_whether_it_was_made_is_given_back_when_that_can_be_known(desk: Desk) -> None:
    """The commit went through, its answer was lost, and so was every answer after it: the caller heard that nothing runs."""
    desk.store.after_commit = raiser(Gone("the line is dead"), times=2)
    hold = desk.payer.hold(100)
    (answer,) = desk.answers(hold)
    assert code_of(answer) == "payre_unavailable"
    assert desk.payer.account().held_micros == 100
    desk.writer.sweep()
    assert desk.payer.account().held_micros == 0
    assert [row.kind for row in journal_of(desk.ledger) if hold.id in {row.id, row.ref_id}] == [Kind.HOLD, Kind.VOID]
