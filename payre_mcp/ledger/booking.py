"""Writing down what was decided: a row, and the moves of account, earnings and counters that go with it."""

from collections.abc import Iterable
from typing import Any

from payre_mcp.ledger.metering import Move, released_by
from payre_mcp.ledger.model import CHARGES, Account, Charge, Credit, Done, Hold, Kind, OpenHold, Transfer, made_of
from payre_mcp.ledger.state import Decision, State

_ZERO = (0, 0)
NOBODY = Account(0, 0, 0)
"""Whose account a row moves that moves none."""

_RELEASES = frozenset({Kind.VOID.value, Kind.EXPIRE.value})
_CHARGEBACK = Kind.CHARGEBACK.value


class Booking:
    """A decision as it grows, and the state that every next command of its batch is judged by."""

    def __init__(self, state: State, now: int) -> None:
        self.state, self.now, self.out = state, now, Decision()

    def row(
        self, command: Any, kind: Kind, consumer_id: int, developer_id: int, amount: int, *,
        ref_id: int = 0, fee: int = 0, fee_bps: int = 0, held: int = 0, key: str = "", slot: int = 0,
        fingerprint: str = "", api_key_id: int = 0, tool: str = "", terms: str = "", server_id: int = 0, credit: int = 0,
    ) -> Transfer:  # fmt: skip
        """A row that is neither a hold nor a charge: those are many, and made at once."""
        return Transfer(
            command.part, command.id, kind.value, consumer_id, developer_id, ref_id, amount, fee, fee_bps, held,
            key, slot, fingerprint, api_key_id, tool, self.now, 0, "", 0, terms, server_id, credit,
        )  # fmt: skip

    def write(self, row: Transfer, balance: int, held: int, credit: int = 0, credit_held: int = 0) -> Done:
        """Take the row into the decision and move the consumer's account and free credit by these deltas."""
        part, _, kind, consumer_id, developer_id = row[:5]
        state, out = self.state, self.out
        _, old_balance, old_held, last = state.accounts[consumer_id]
        new_balance, new_held = old_balance + balance, old_held + held
        assert new_held >= 0
        # Nothing but a chargeback takes what is not there; where one did, less may be there than is held.
        assert new_held <= new_balance or held <= balance or kind == _CHARGEBACK
        if kind in CHARGES:
            last = row.id
        account: Account = made_of(Account, (consumer_id, new_balance, new_held, last))
        state.accounts[consumer_id] = account
        owner = (part, consumer_id)
        before = out.balances.get(owner, _ZERO)
        out.balances[owner] = (before[0] + balance, before[1] + held, last)
        out.transfers.append(row)
        key = row.key
        if key:
            state.by_key.setdefault((consumer_id, developer_id, key), []).append(row)
        if kind in _RELEASES:
            state.ends[row.ref_id] = row
        if credit or credit_held:
            self.move_credit(row, credit, credit_held)
        return Done(row, account)

    def post(self, row: Transfer) -> Done:
        """Take a row into the decision that moves no account."""
        self.out.transfers.append(row)
        self.state.by_key.setdefault((row.consumer_id, row.developer_id, row.key), []).append(row)
        return Done(row, NOBODY)

    def history(self, part: int, consumer_id: int, developer_id: int, key: str) -> list[Transfer]:
        """What this key has done in this part: a developer's keys are of a part each, and a batch may name several."""
        return [row for row in self.state.by_key.get((consumer_id, developer_id, key), ()) if row.part == part]

    def replay(self, row: Transfer) -> Done:
        """The answer that was given when this row was written."""
        result, expires_at = self.state.results.get(row.id, ("", 0))
        account = self.state.accounts.get(row.consumer_id, NOBODY)
        return Done(row, account, replayed=True, result=result if expires_at > self.now else "")

    def grant(self, command: Hold | Charge) -> None:
        """Give a consumer the free credit that their first call at a server brings."""
        part, consumer_id, server_id, granted = command.part, command.consumer_id, command.server_id, command.grant_micros
        row = self.row(
            command, Kind.GRANT, consumer_id, 0, granted, ref_id=command.id, api_key_id=command.api_key_id, tool=command.tool,
            server_id=server_id, credit=granted,
        )  # fmt: skip
        self.state.credits[consumer_id, server_id] = Credit(consumer_id, server_id, granted, granted, 0)
        self.out.granted.append((part, consumer_id, server_id, granted))
        self.write(row._replace(id=-command.id), 0, 0)

    def move_credit(self, row: Transfer, balance: int, held: int) -> None:
        """Move the free credit of the row's consumer and server. One that is not loaded is not asked for in this batch."""
        place = (row.consumer_id, row.server_id)
        if (known := self.state.credits.get(place)) is not None:
            moved = known._replace(balance_micros=known.balance_micros + balance, held_micros=known.held_micros + held)
            assert 0 <= moved.held_micros <= moved.balance_micros <= moved.granted_micros
            self.state.credits[place] = moved
        before = self.out.credits.get((row.part, *place), _ZERO)
        self.out.credits[row.part, *place] = (before[0] + balance, before[1] + held)

    def close(self, hold: OpenHold) -> None:
        """Take an open hold and what it reserved out of the books."""
        del self.state.holds[hold.id]
        self.out.closed.append((hold.part, hold.id))
        if hold.terms:
            self.count(hold, released_by(hold.terms, hold.amount_micros))

    def count(self, owner: OpenHold | Transfer, moves: Iterable[Move]) -> None:
        """Move the counters of the owner's consumer."""
        part, consumer_id = owner.part, owner.consumer_id
        for name, start, captured, reserved in moves:
            known = self.state.counters.get((consumer_id, name, start), _ZERO)
            self.state.counters[consumer_id, name, start] = (known[0] + captured, known[1] + reserved)
            delta = self.out.counters.get((part, consumer_id, name, start), _ZERO)
            self.out.counters[part, consumer_id, name, start] = (delta[0] + captured, delta[1] + reserved)

    def earn(self, row: Transfer, sign: int) -> None:
        """Move what developer and platform have of this row."""
        net = row.amount_micros - row.credit_micros - row.fee_micros
        self.move_earnings(row, sign * net, sign * row.fee_micros)

    def move_earnings(self, row: Transfer, earned: int, fees: int) -> None:
        """Move the earnings of the row's developer, and the platform's fees beside them."""
        owner = (row.part, row.developer_id)
        before = self.out.earnings.get(owner, _ZERO)
        self.out.earnings[owner] = (before[0] + earned, before[1] + fees)
