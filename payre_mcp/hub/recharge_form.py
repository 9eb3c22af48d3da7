"""What a person fills in on a top-up page: an amount, and when to charge the card again by itself."""

import contextlib
from collections.abc import Mapping

from payre_mcp.billing.checkouts import RechargeWish
from payre_mcp.errors import InvalidRequest
from payre_mcp.gateway.top_ups import TopUps
from payre_mcp.money import MICROS_PER_CENT, InvalidAmount, Money

_THRESHOLD = Money.parse(2)
_TIMES_A_MONTH = 5

_NAMES = {
    "amount": "the amount",
    "threshold": "the amount below which the card is charged",
    "again": "the amount that is charged by itself",
    "month_cap": "the most a month",
}


def amount_in(form: Mapping[str, str], field: str) -> Money:
    """The dollars in a field. Raises `InvalidRequest` for what is no amount above zero, in whole cents."""
    with contextlib.suppress(InvalidAmount):
        amount = Money.parse(form.get(field, "").strip())
        if amount and not amount.micros % MICROS_PER_CENT:
            return amount
    text = "is written in dollars, above zero and in whole cents, such as 12 or 12.50; nothing was charged"
    raise InvalidRequest(f"{_NAMES[field]} {text}")


def wish_in(form: Mapping[str, str], desk: TopUps) -> RechargeWish | None:
    """The recharges that were asked for; None where they were not. Raises `InvalidRequest` for amounts that cannot be."""
    if "recharge" not in form:
        return None
    wish = RechargeWish(*(amount_in(form, field) for field in ("threshold", "again", "month_cap")))
    desk.check(wish.amount)
    if wish.month_cap < wish.amount:
        raise InvalidRequest(
            f"{_NAMES['month_cap']} is {wish.month_cap}, less than the {wish.amount} of one charge; nothing was charged"
        )
    return wish


def as_entered(form: Mapping[str, str], amount: Money) -> dict[str, str]:
    """The fields as a person left them, and else as they are proposed for a top-up of this amount."""
    most = Money(_TIMES_A_MONTH * amount.micros)
    proposed = {"amount": "", "recharge": "", "threshold": _THRESHOLD.usd, "again": amount.usd, "month_cap": most.usd}
    return {field: form.get(field, value) for field, value in proposed.items()}
