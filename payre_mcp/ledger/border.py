"""Money that crosses the border: top-ups come in; returns, chargebacks, payouts and costs go out, and may come back."""

from collections.abc import Sequence

from payre_mcp.errors import IdempotencyConflict, InsufficientBalance, InvalidRequest, NotFound
from payre_mcp.ledger.booking import NOBODY, Booking
from payre_mcp.ledger.model import MAX_BALANCE_MICROS, SENT, ComeBack, Kind, Send, TopUp, Transfer
from payre_mcp.ledger.state import Answer
from payre_mcp.money import MAX_MICROS

_OF_A_BALANCE = frozenset({Kind.RETURN.value, Kind.CHARGEBACK.value})
_OF_EARNINGS = Kind.PAYOUT.value


class Border(Booking):
    """Judges what comes in and what goes out."""

    def top_up(self, command: TopUp) -> Answer:
        """Outside money into a balance."""
        account = self.state.accounts.get(command.consumer_id)
        if account is None:
            return NotFound("no such consumer; nothing was credited")
        amount = command.amount_micros + command.fee_micros
        if first := paid(self.history(command.part, command.consumer_id, 0, command.key)):
            if (first.kind, first.amount_micros, first.fee_micros) != (Kind.TOP_UP, amount, command.fee_micros):
                return IdempotencyConflict("this top-up was credited before with another amount; nothing was credited now")
            return self.replay(first)
        if command.amount_micros <= 0 or account.balance_micros + command.amount_micros > MAX_BALANCE_MICROS:
            return InvalidRequest("a top-up is above zero and keeps the balance within $1,000,000; nothing was credited")
        if not 0 <= command.fee_micros <= MAX_BALANCE_MICROS:
            return InvalidRequest("the fee of a top-up is zero or more; nothing was credited")
        row = self.row(command, Kind.TOP_UP, command.consumer_id, 0, amount, fee=command.fee_micros, key=command.key)
        if command.fee_micros:
            self.move_earnings(row, 0, command.fee_micros)
        return self.write(row, command.amount_micros, 0)

    def send(self, command: Send) -> Answer:
        """Money to the outside, once per key."""
        kind, amount, consumer_id, developer_id = command.kind, command.amount_micros, command.consumer_id, command.developer_id
        account = self.state.accounts.get(consumer_id, None if consumer_id else NOBODY)
        if account is None:
            return NotFound("no such consumer; nothing was booked")
        if first := paid(self.history(command.part, consumer_id, developer_id, command.key)):
            if (first.kind, first.amount_micros) != (kind, amount):
                return IdempotencyConflict("this was booked before with another amount; nothing was booked now")
            return self.replay(first)
        owned = (consumer_id == 0) == (developer_id != 0) == (kind == _OF_EARNINGS)
        if not 0 < amount <= MAX_MICROS or kind not in SENT or not command.key or not owned:
            return InvalidRequest(
                "what leaves the ledger is above zero, named, and of a consumer or a developer; nothing was booked"
            )
        if kind == Kind.RETURN and amount > account.available_micros:
            return InsufficientBalance(
                price_micros=amount, balance_micros=account.available_micros, shortfall_micros=amount - account.available_micros
            )
        row = self.row(command, Kind(kind), consumer_id, developer_id, amount, key=command.key)
        return self.cross(row, kind, -amount)

    def come_back(self, command: ComeBack) -> Answer:
        """Of what was sent, what has come back in all."""
        history = self.history(command.part, command.consumer_id, command.developer_id, command.key)
        first = paid(history)
        if first is None or first.kind not in SENT or first.kind == Kind.COST:
            return NotFound("nothing was sent by this name; nothing was booked")
        if not 0 < command.total_micros <= first.amount_micros:
            return InvalidRequest("what comes back is above zero and at most what was sent; nothing was booked")
        back, before = sorted((row for row in history if row.slot < 0), key=lambda row: -row.slot), 0
        for row in back:
            before += row.amount_micros
            if before >= command.total_micros:
                return self.replay(row)
        amount = command.total_micros - before
        if first.consumer_id and self.state.accounts[first.consumer_id].balance_micros + amount > MAX_BALANCE_MICROS:
            return InvalidRequest("this would lift the balance above $1,000,000; nothing was booked")
        row = self.row(
            command, Kind.COME_BACK, first.consumer_id, first.developer_id, amount,
            ref_id=first.id, key=command.key, slot=-1 - len(back),
        )  # fmt: skip
        return self.cross(row, first.kind, amount)

    def cross(self, row: Transfer, kind: int, micros: int) -> Answer:
        """Book a row that moves what this kind of sending is taken from."""
        if kind in _OF_A_BALANCE:
            return self.write(row, micros, 0)
        if kind == _OF_EARNINGS:
            self.move_earnings(row, micros, 0)
            return self.post(row)
        self.move_earnings(row, 0, micros)
        return self.write(row, 0, 0)


def paid(history: Sequence[Transfer]) -> Transfer | None:
    """What a key has moved for good, if anything."""
    return next((row for row in history if row.slot == 0), None)
