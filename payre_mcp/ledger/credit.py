"""Free credit: what an operator gives a consumer to try a server with.

It is granted once per consumer and server, with the first call there; it is spent before the balance, earned by nobody, and
never paid out. One call may take part from credit and part from the balance; the fee and the developer's share are of the
part from the balance alone.
"""

from collections.abc import Sequence

from payre_mcp.ledger.model import Charge, Command, Expire, Hold, Kind, Transfer
from payre_mcp.ledger.state import CreditKey, State

_CALLS = (Hold, Charge)


def credit_needs(batch: Sequence[Command], state: State) -> list[CreditKey]:
    """The credits that this batch may spend: those of its calls, and of expired ones whose charge may come late."""
    wanted = [(each.consumer_id, each.server_id) for each in batch if isinstance(each, _CALLS) and each.server_id]
    if state.holds or state.ends:
        expiring = [state.holds[each.hold_id] for each in batch if isinstance(each, Expire) and each.hold_id in state.holds]
        expired = [end for end in state.ends.values() if end.kind == Kind.EXPIRE]
        wanted += [(each.consumer_id, each.server_id) for each in (*expiring, *expired) if each.server_id]
    return wanted


def returned(charge: Transfer, amount: int) -> tuple[int, int]:
    """How much credit and how much of the fee has come back when so much of a charge has.

    In proportion and rounded down, so that a whole refund returns all of both. The rest of the amount goes to the balance.
    """
    spent = charge.credit_spent_micros
    credit = spent * amount // charge.amount_micros
    paid = charge.amount_micros - spent
    return credit, charge.fee_micros * (amount - credit) // paid if paid else 0
