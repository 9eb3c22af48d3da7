"""The only code that decides a money movement: `decide(batch, state, now)`. Pure: no I/O, no clock, integers alone.

Commands are judged in order and each on its own: what one command changed, the next one sees, and a refusal leaves
nothing behind. So a batch ends exactly where its commands one by one would have ended.
"""

from collections.abc import Callable, Sequence
from typing import Any

from payre_mcp.errors import (
    CaptureExceedsHold,
    HoldNotOpen,
    HoldUnknown,
    IdempotencyConflict,
    InProgress,
    InsufficientBalance,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    PayreError,
    PriceAboveLimit,
    RefundExceedsCharge,
)
from payre_mcp.ledger.booking import NOBODY
from payre_mcp.ledger.border import Border
from payre_mcp.ledger.credit import returned
from payre_mcp.ledger.metering import captured_by, fixed_terms, is_fixed, price_capture, price_hold, reserved_by
from payre_mcp.ledger.model import (
    HOLD_ENDS,
    MAX_BALANCE_MICROS,
    Capture,
    Charge,
    ComeBack,
    Command,
    Done,
    Expire,
    Extend,
    Extended,
    Hold,
    Kind,
    Refund,
    Send,
    TopUp,
    Transfer,
    Void,
    born,
    made_of,
)
from payre_mcp.ledger.spending import Cap, caps_of, counters_of, over_limit
from payre_mcp.ledger.state import Answer, Decision, State
from payre_mcp.money import split_fee

_ZERO = (0, 0)
_CHARGE, _CAPTURE, _HOLD = Kind.CHARGE.value, Kind.CAPTURE.value, Kind.HOLD.value


def decide(batch: Sequence[Command], state: State, now: int) -> Decision:
    """Judge a batch. `state` holds what `needs` named; it is used up."""
    judge = _Judge(state, now)
    for command in batch:
        judge.out.answers.append(judge.repeat(command) or _JUDGES[type(command)](judge, command))
    return judge.out


class _Judge(Border):
    def repeat(self, command: Command) -> Answer | None:
        """The answer of an earlier try of this very command, where its commit went through unseen."""
        if not self.state.written or isinstance(command, Extend):
            return None
        row = self.state.written.get(command.id)
        if row is None or (row.kind, row.consumer_id) != (_KINDS.get(type(command), row.kind), command.consumer_id):
            return None
        return Done(row, self.state.accounts.get(row.consumer_id, NOBODY))

    def hold(self, command: Hold) -> Answer:
        if refusal := self.key_refusal(command):
            return refusal
        slot = 1
        if command.key:
            attempt = (command.nonce and self.asked_before(command)) or self.attempt(command)
            if not isinstance(attempt, int):
                return attempt
            slot = attempt
        amount, caps = command.amount_micros, self.caps(command)
        terms = fixed_terms(counters_of(caps)) if caps else ""
        if command.metered is not None:
            try:
                amount, terms = price_hold(command.metered, command.consumer_id, self.state.counters, counters_of(caps))
            except PayreError as refusal:
                return refusal
        if amount > command.max_micros:
            return PriceAboveLimit(price_micros=amount, limit_micros=command.max_micros)
        credit = self.credit(command.consumer_id, command.server_id, command.grant_micros) if command.server_id else 0
        if refusal := self.amount_refusal(command.consumer_id, amount, caps, credit):
            return refusal
        if command.grant_micros:
            self.grant_once(command)
        credit = min(amount, credit) if credit else 0
        row: Transfer = made_of(Transfer, (
            command.part, command.id, _HOLD, command.consumer_id, command.developer_id, 0, amount, 0, 0, 0,
            command.key, slot, command.fingerprint, command.api_key_id, command.tool, self.now, command.expires_at,
            command.nonce, 0, terms, command.server_id, credit,
        ))  # fmt: skip
        hold = born(row)
        self.state.holds[command.id] = hold
        self.out.opened.append(hold)
        if terms:
            self.count(row, reserved_by(terms, amount))
        return self.write(row, 0, amount - credit, 0, credit)

    def charge(self, command: Charge) -> Answer:
        if refusal := self.key_refusal(command):
            return refusal
        if command.key:
            attempt = self.attempt(command)
            if not isinstance(attempt, int):
                return attempt
        caps = self.caps(command)
        credit = self.credit(command.consumer_id, command.server_id, command.grant_micros) if command.server_id else 0
        if refusal := self.amount_refusal(command.consumer_id, command.amount_micros, caps, credit):
            return refusal
        if command.grant_micros:
            self.grant_once(command)
        return self.write_charge(
            command, _CHARGE, command.consumer_id, command.developer_id, command.key, command.fingerprint,
            command.api_key_id, command.tool, command.amount_micros, fixed_terms(counters_of(caps)) if caps else "",
            server_id=command.server_id, credit=credit,
        )  # fmt: skip

    def capture(self, command: Capture) -> Answer:
        hold = self.state.holds.get(command.hold_id)
        if hold is None:
            return self.late_capture(command)
        if (hold.consumer_id, hold.developer_id) != (command.consumer_id, command.developer_id):
            return HoldUnknown("no such hold of this consumer and developer; nothing was charged")
        priced = self.priced(command, hold.amount_micros, hold.terms)
        if isinstance(priced, PayreError):
            return priced
        self.close(hold)
        return self.write_charge(
            command, _CAPTURE, hold.consumer_id, hold.developer_id,
            hold.key, hold.fingerprint, hold.api_key_id, hold.tool, *priced, hold.id, hold.amount_micros,
            hold.server_id, hold.credit_micros,
        )  # fmt: skip

    def late_capture(self, command: Capture) -> Answer:
        """A capture whose hold is gone: the same answer again, a late charge, or an error."""
        end = self.state.ends.get(command.hold_id)
        if end is None or (end.consumer_id, end.developer_id) != (command.consumer_id, command.developer_id):
            return HoldUnknown("no such hold; it was never made, or was lost in a crash. Nothing was charged")
        if end.kind == Kind.CAPTURE:
            return self.replay(end)
        if end.kind == Kind.VOID:
            return HoldNotOpen("this hold was voided; nothing was charged")
        if late := self.state.late_charges.get(command.hold_id):
            return self.replay(late)
        priced = self.priced(command, end.held_micros, end.terms)
        if isinstance(priced, PayreError):
            return priced
        if end.key and not isinstance(self.attempt(end), int):
            return HoldNotOpen("this hold expired and its idempotency key was used again since; nothing was charged")
        credit = self.credit(end.consumer_id, end.server_id)
        if max(0, self.state.accounts[command.consumer_id].available_micros) + credit < priced[0]:
            return HoldNotOpen("this hold expired and its money was spent meanwhile; nothing was charged")
        done = self.write_charge(
            command, _CHARGE, end.consumer_id, end.developer_id,
            end.key, end.fingerprint, end.api_key_id, end.tool, *priced, end.ref_id, 0, end.server_id, credit,
        )  # fmt: skip
        self.state.late_charges[command.hold_id] = done.transfer
        return done

    def priced(self, command: Capture, held: int, terms: str) -> tuple[int, str] | PayreError:
        """What a capture charges and the terms of its row, or why it cannot be."""
        if command.spent is not None or not is_fixed(terms):
            try:
                return price_capture(command.spent, held, terms)
            except PayreError as refusal:
                return refusal
        if not 0 <= command.amount_micros <= held:
            return CaptureExceedsHold("a capture is at most what was held; nothing was charged")
        return command.amount_micros, terms

    def void(self, command: Void) -> Answer:
        return self.release(command, Kind.VOID)

    def expire(self, command: Expire) -> Answer:
        hold = self.state.holds.get(command.hold_id)
        if hold is not None and hold.expires_at > self.now:
            return HoldNotOpen("this hold was extended meanwhile")
        return self.release(command, Kind.EXPIRE)

    def release(self, command: Void | Expire, kind: Kind) -> Answer:
        hold = self.state.holds.get(command.hold_id)
        if hold is None or hold.consumer_id != command.consumer_id:
            end = self.state.ends.get(command.hold_id)
            if end is None or end.consumer_id != command.consumer_id:
                return HoldUnknown("no such hold; there is nothing to give back")
            if end.kind == Kind.CAPTURE:
                return HoldNotOpen("this hold was captured; use a refund to give money back")
            return self.replay(end)
        self.close(hold)
        row = self.row(
            command, kind, hold.consumer_id, hold.developer_id, hold.amount_micros, ref_id=hold.id, held=hold.amount_micros,
            key=hold.key, slot=-hold.slot, fingerprint=hold.fingerprint, api_key_id=hold.api_key_id, tool=hold.tool,
            terms=hold.terms, server_id=hold.server_id, credit=hold.credit_micros,
        )  # fmt: skip
        return self.write(row, 0, hold.credit_micros - hold.amount_micros, 0, -hold.credit_micros)

    def extend(self, command: Extend) -> Answer:
        hold = self.state.holds.get(command.hold_id)
        if hold is None or hold.consumer_id != command.consumer_id:
            return HoldNotOpen("this hold has ended; it cannot be extended")
        until = command.expires_at
        if command.since:
            if hold.expires_at != command.since:
                return HoldNotOpen("somebody else went on with this hold")
            until = max(until, hold.expires_at + 1)
        if until > hold.expires_at:
            self.state.holds[hold.id] = hold._replace(expires_at=until)
            self.out.extended[hold.part, hold.id] = until
        return Extended(self.state.holds[hold.id])

    def refund(self, command: Refund) -> Answer:
        charge = self.state.charges.get(command.charge_id)
        if charge is None or (charge.consumer_id, charge.developer_id) != (command.consumer_id, command.developer_id):
            return NotFound("no such charge of this developer; nothing was refunded")
        if history := self.state.by_key.get((charge.consumer_id, charge.developer_id, command.key)):
            first = history[0]
            if (first.kind, first.ref_id, first.amount_micros) != (Kind.REFUND, charge.id, command.amount_micros):
                return IdempotencyConflict("this key was used before for something else; nothing was refunded")
            return self.replay(first)
        amount_before, _ = self.state.refunded.get(charge.id, _ZERO)
        total = amount_before + command.amount_micros
        if command.amount_micros <= 0 or total > charge.amount_micros:
            return RefundExceedsCharge("refunds of a charge are above zero and sum to at most the charge; nothing was refunded")
        (credit, fee), (credit_before, fee_before) = returned(charge, total), returned(charge, amount_before)
        credit, fee = credit - credit_before, fee - fee_before
        paid = command.amount_micros - credit
        if self.state.accounts[charge.consumer_id].balance_micros + paid > MAX_BALANCE_MICROS:
            return InvalidRequest("the refund would lift the balance above $1,000,000; nothing was refunded")
        self.state.refunded[charge.id] = (total, fee_before + fee)
        row = self.row(
            command, Kind.REFUND, charge.consumer_id, charge.developer_id, command.amount_micros, ref_id=charge.id,
            fee=fee, fee_bps=charge.fee_bps, key=command.key, api_key_id=charge.api_key_id, tool=charge.tool,
            server_id=charge.server_id, credit=credit,
        )  # fmt: skip
        self.earn(row, -1)
        return self.write(row, paid, 0, credit)

    def asked_before(self, command: Hold) -> Answer | None:
        """The hold that this very request of a remote seller made before."""
        history = self.state.by_key.get((command.consumer_id, command.developer_id, command.key), ())
        made = next((row for row in history if row.detail == command.nonce and row.kind == _HOLD), None)
        slots = {row.slot for row in history}
        if made is None or 0 in slots or made.fingerprint != command.fingerprint:
            return None
        if -made.slot in slots:
            return HoldNotOpen("the hold of this request has ended; nothing was charged")
        return Done(made, self.state.accounts[command.consumer_id])

    def attempt(self, command: Hold | Charge | Transfer) -> int | Answer:
        """The slot of the next hold under this key, or the answer of the act that the key already names."""
        history = self.state.by_key.get((command.consumer_id, command.developer_id, command.key))
        if not history:
            return 1
        if any(row.fingerprint != command.fingerprint for row in history):
            return IdempotencyConflict(
                "this idempotency key was used before with another target or other arguments; nothing ran and nothing "
                "was charged. Use a new key for a new call"
            )
        holds = ends = 0
        for row in history:
            if row.slot == 0:
                return self.replay(row)
            holds += row.kind == Kind.HOLD
            ends += row.kind in HOLD_ENDS
        if holds > ends:
            return InProgress("the first call with this idempotency key still runs; ask again shortly. It is not charged twice")
        return holds + 1

    def key_refusal(self, command: Hold | Charge) -> PayreError | None:
        """A key that is dead gets nothing, not even the stored answer of a call that it paid while it lived."""
        key = self.state.api_keys.get(command.api_key_id)
        known = command.consumer_id in self.state.accounts
        if not known or key is None or key.revoked_at or 0 < key.expires_at <= self.now:
            return InvalidApiKey("this Payre key is revoked or expired; nothing ran and nothing was charged")
        return None

    def caps(self, command: Hold | Charge) -> Sequence[Cap]:
        key = self.state.api_keys[command.api_key_id]
        return caps_of(key, command.tool, self.now) if key.limits else ()

    def credit(self, consumer_id: int, server_id: int, grant_micros: int = 0) -> int:
        """The free credit that is there for a call, with what its first call brings."""
        known = self.state.credits.get((consumer_id, server_id))
        return grant_micros if known is None else known.available_micros

    def grant_once(self, command: Hold | Charge) -> None:
        if command.server_id and (command.consumer_id, command.server_id) not in self.state.credits:
            self.grant(command)

    def amount_refusal(self, consumer_id: int, amount: int, caps: Sequence[Cap], credit: int) -> PayreError | None:
        own = self.state.accounts[consumer_id].available_micros
        if amount < 0:
            return InvalidRequest("an amount is zero or more; nothing was charged")
        if caps and (refusal := over_limit(caps, amount, consumer_id, self.state.counters, self.now)):
            return refusal
        if own < 0 or amount > own + credit:
            # What is owed goes before any call: below zero, free credit pays for none.
            available, short = own + credit if own >= 0 else own, max(0, amount - credit) - own
            return InsufficientBalance(price_micros=amount, balance_micros=available, shortfall_micros=short)
        return None

    def write_charge(
        self, command: Capture | Charge, kind: int, consumer_id: int, developer_id: int, key: str, fingerprint: str,
        api_key_id: int, tool: str, amount: int, terms: str = "", ref_id: int = 0, held: int = 0,
        server_id: int = 0, credit: int = 0,
    ) -> Done:  # fmt: skip
        """`credit` is what the hold has of it, or what is there; of what is charged it goes first."""
        fee_bps = command.fee_bps
        is_capture = kind == _CAPTURE
        spent = min(amount, credit) if credit else 0
        paid, kept = amount - spent, credit if is_capture else spent
        fee, net = split_fee(paid, fee_bps)
        part, charge_id = command.part, command.id
        row: Transfer = made_of(Transfer, (
            part, charge_id, kind, consumer_id, developer_id, ref_id, amount, fee, fee_bps, held,
            key, 0, fingerprint, api_key_id, tool, self.now, 0, command.detail, self.state.accounts[consumer_id].last_charge_id,
            terms, server_id, kept,
        ))  # fmt: skip
        if terms:
            self.count(row, captured_by(terms, amount))
        earnings, owner = self.out.earnings, (part, developer_id)
        earned, fees = earnings.get(owner, _ZERO)
        earnings[owner] = (earned + net, fees + fee)
        released = credit if is_capture else 0
        done = self.write(row, -paid, released - held, -spent, -released)
        self.state.charges[charge_id] = row
        if is_capture:
            self.state.ends[ref_id] = row
        if key and isinstance(command, Capture) and command.result:
            self.out.results.append((part, charge_id, command.result, command.result_expires_at))
            self.state.results[charge_id] = (command.result, command.result_expires_at)
        return done


_KINDS: dict[type, Kind] = {
    TopUp: Kind.TOP_UP, Hold: Kind.HOLD, Void: Kind.VOID, Expire: Kind.EXPIRE, Refund: Kind.REFUND, ComeBack: Kind.COME_BACK,
}  # fmt: skip
"""What each command writes; a charge or a capture writes either, where it comes late, and sending says it by itself."""

_JUDGES: dict[type, Callable[[_Judge, Any], Answer]] = {
    TopUp: _Judge.top_up,
    Hold: _Judge.hold,
    Capture: _Judge.capture,
    Void: _Judge.void,
    Expire: _Judge.expire,
    Extend: _Judge.extend,
    Charge: _Judge.charge,
    Refund: _Judge.refund,
    Send: _Judge.send,
    ComeBack: _Judge.come_back,
}
