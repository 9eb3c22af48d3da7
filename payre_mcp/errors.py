"""Every error that payre_mcp raises, one tree. A `code` is the snake_case of its class and part of the contract.

PayreError                       internal_error 500
+-- KeyRejected
|   +-- Unauthorized             401  the developer's secret key is missing or wrong
|   +-- InvalidApiKey            401  the consumer's key is unknown, revoked, expired or malformed
|   +-- Forbidden                403  the key is good, and not for this
+-- PaymentRequired              402  a paid target, and no key came
|   +-- InsufficientBalance      402  less is available than the call may cost
|   +-- PriceAboveLimit          402  the call may cost more than the caller allows
|   +-- SpendLimit               402  the call may cost more than the key may still spend
+-- CallRefused                  400
|   +-- NotPriced                403  the target is not in the published price list
|   +-- InvalidVariant           400  the price has no variant for these arguments
|   +-- AmountOverflow           400  the call could cost 2^53 micros or more
|   +-- PriceMismatch            400  a charge by hand that is above the published price, or of nothing that is published
|   +-- InvalidRequest           400
+-- UsageInvalid                 400  a reported usage is no quantity, or of no unit that is known
|   +-- UsageAmbiguous           400  two dimensions count this unit, and no direction was given
+-- UsageMissing                 500  the tool succeeded and did not report what its price is by; not charged
+-- IdempotencyConflict          409  one key, two different requests
+-- InProgress                   409  the first request with this key still runs (retryable)
+-- ResultNotStored              409  paid and done, and the answer is no longer kept
+-- RateLimited                  429  too many refused keys from one address (retryable)
+-- HoldUnknown                  404
+-- HoldNotOpen                  409
+-- CaptureExceedsHold           400
+-- RefundExceedsCharge          400
+-- NotFound                     404
+-- ReceiptInvalid               400
+-- WebhookInvalid               400  not signed by the payment processor, or not now
+-- PayoutNotReady               409  too little has matured, or the developer's bank account is not connected
+-- ProcessorError               502  the payment processor refused, or did not answer
+-- PriceSpecInvalid             422
+-- SettingsInvalid              500  raised at start, never on a call
+-- LedgerInvalid                500  the database is damaged, another program's, or of a newer version
+-- PayreUnavailable             503  the ledger cannot be reached or is busy (retryable)

A message says what happened, what it means for the reader's money, and what to do. Programmer mistakes are
`TypeError` and `ValueError` at construction, never one of these.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from payre_mcp.money import format_usd


class PayreError(Exception):
    """Something went wrong inside Payre. Instance attributes are data: see `data()`."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The sentence for people and models; never holds a key or a secret."""
        return str(self.args[0]) if self.args else "something went wrong in Payre; nothing was charged"

    def __str__(self) -> str:
        return self.message

    def data(self) -> dict[str, Any]:
        """The fields of this error that are known, `*_micros` each with its dollars beside it (`*_usd`, without the sign)."""
        fields: dict[str, Any] = {}
        for name, value in vars(self).items():
            if value is not None:
                fields[name] = value
                if name.endswith("_micros"):
                    fields[name.removesuffix("_micros") + "_usd"] = format_usd(value).replace("$", "")
        return fields


class KeyRejected(PayreError):
    """A key was given and cannot be used. `hint` says what to do about it in the client at hand."""

    code = "key_rejected"
    http_status = 401

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """What is wrong with the key, and what to do."""
        what = str(self.args[0])
        return f"{what.rstrip('.')}. {self.hint}." if self.hint else what


class Unauthorized(KeyRejected):
    """The developer's secret key is missing, unknown or revoked."""

    code = "unauthorized"


class InvalidApiKey(KeyRejected):
    """The consumer's key is unknown, revoked, expired or malformed."""

    code = "invalid_api_key"


class Forbidden(KeyRejected):
    """The key is good but not for this: wrong role, wrong mode, or bound to another server."""

    code = "forbidden"
    http_status = 403


class PaymentRequired(PayreError):
    """A paid target was called without a key."""

    code = "payment_required"
    http_status = 402

    def __init__(self, *, price_micros: int, top_up_url: str | None = None, hint: str | None = None) -> None:
        super().__init__()
        self.price_micros = price_micros
        self.top_up_url = top_up_url
        self.hint = hint

    @property
    def message(self) -> str:
        """What it costs, that nothing happened, and how to send a key."""
        advice = self.hint or "Send your Payre key in the X-Payre-Key header"
        return f"This call costs up to {format_usd(self.price_micros)} and no Payre key arrived, so nothing ran. {advice}."


class InsufficientBalance(PaymentRequired):
    """The consumer's available balance is below what this call may cost.

    `balance_micros` and `shortfall_micros` are None unless the reader is that consumer.
    """

    code = "insufficient_balance"

    def __init__(
        self, *, price_micros: int, balance_micros: int | None = None, shortfall_micros: int | None = None,
        top_up_url: str | None = None, hint: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(price_micros=price_micros, top_up_url=top_up_url, hint=hint)
        self.balance_micros = balance_micros
        self.shortfall_micros = shortfall_micros

    @property
    def message(self) -> str:
        """Price, balance and shortfall, that nothing was charged, and where to top up."""
        have = "" if self.balance_micros is None else f" and {format_usd(self.balance_micros)} is available"
        short = "" if self.shortfall_micros is None else f", {format_usd(self.shortfall_micros)} short"
        where = f"Top up at {self.top_up_url}" if self.top_up_url else (self.hint or "Top up your balance")
        return (
            f"This call costs up to {format_usd(self.price_micros)}{have}{short}. "
            f"Nothing ran and nothing was charged. {where}, then call again."
        )


class PriceAboveLimit(PaymentRequired):
    """The call may cost more than the caller's `dev.payre/max-price` allows."""

    code = "price_above_limit"

    def __init__(self, *, price_micros: int, limit_micros: int) -> None:
        super().__init__(price_micros=price_micros)
        self.limit_micros = limit_micros

    @property
    def message(self) -> str:
        """Both amounts, and what to raise."""
        return (
            f"This call may cost {format_usd(self.price_micros)} and your limit for it is "
            f"{format_usd(self.limit_micros)}. Nothing ran and nothing was charged; raise max-price to allow it."
        )


class SpendLimit(PaymentRequired):
    """A limit of the key itself leaves less than this call may cost. `resets_at` is in seconds since 1970, or None."""

    code = "spend_limit"

    def __init__(
        self, *, price_micros: int, limit_micros: int, left_micros: int, window: str, resets_at: int | None = None
    ) -> None:
        super().__init__(price_micros=price_micros)
        self.limit_micros, self.left_micros, self.window, self.resets_at = limit_micros, left_micros, window, resets_at

    @property
    def message(self) -> str:
        """Price, limit and what is left of it, that nothing was charged, when it starts anew, and who can raise it."""
        per = {"call": "per call", "day": "per day", "month": "per month"}.get(self.window, "per day for this tool")
        at = self.resets_at
        anew = "" if at is None else f"It starts anew at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC. "
        return (
            f"This call costs up to {format_usd(self.price_micros)}, and the limit of this key, {format_usd(self.limit_micros)} "
            f"{per}, leaves {format_usd(self.left_micros)}. Nothing ran and nothing was charged. {anew}"
            "A person can raise it with `payre keys limits`."
        )


class CallRefused(PayreError):
    """The call was refused before it ran, and not for money."""

    code = "call_refused"
    http_status = 400


class NotPriced(CallRefused):
    """The target is not in the server's published price list."""

    code = "not_priced"
    http_status = 403


class InvalidVariant(CallRefused):
    """The price differs by an argument, and has no variant for the value that was sent."""

    code = "invalid_variant"


class AmountOverflow(CallRefused):
    """The call could cost 2^53 micros or more: beyond what any account can hold."""

    code = "amount_overflow"


class PriceMismatch(CallRefused):
    """A charge by hand is at most the published price or ceiling of something that is published; this one was not."""

    code = "price_mismatch"


class InvalidRequest(CallRefused):
    """A value outside its documented range or form."""

    code = "invalid_request"


class UsageInvalid(PayreError):
    """What a tool reported is no quantity. Raised inside the tool, so that the call fails and is not charged."""

    code = "usage_invalid"
    http_status = 400


class UsageAmbiguous(UsageInvalid):
    """The unit is counted in two directions and the report names none."""

    code = "usage_ambiguous"


class UsageMissing(PayreError):
    """The tool succeeded without reporting what it is priced by, and the price says that this is an error."""

    code = "usage_missing"


class IdempotencyConflict(PayreError):
    """The idempotency key was used before, for a different request."""

    code = "idempotency_conflict"
    http_status = 409


class InProgress(PayreError):
    """The first request with this idempotency key is still running; it is not paid twice."""

    code = "in_progress"
    http_status = 409
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ResultNotStored(PayreError):
    """The call was paid and done; its answer was too large, or is past the 24 hours it is kept."""

    code = "result_not_stored"
    http_status = 409

    def __init__(self, message: str, *, receipt: str | None = None) -> None:
        super().__init__(message)
        self.receipt = receipt


class RateLimited(PayreError):
    """Too many keys from one address were refused; for a while, unknown ones are not looked at."""

    code = "rate_limited"
    http_status = 429
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HoldUnknown(PayreError):
    """No such hold: it was never made, or was lost in a crash before it reached the disk."""

    code = "hold_unknown"
    http_status = 404


class HoldNotOpen(PayreError):
    """The hold ended before: captured under another request, voided, or expired."""

    code = "hold_not_open"
    http_status = 409


class CaptureExceedsHold(PayreError):
    """A capture above the held amount."""

    code = "capture_exceeds_hold"
    http_status = 400


class RefundExceedsCharge(PayreError):
    """Refunds of one charge would sum to more than the charge."""

    code = "refund_exceeds_charge"
    http_status = 400


class NotFound(PayreError):
    """No such object, or not the caller's."""

    code = "not_found"
    http_status = 404


class ReceiptInvalid(PayreError):
    """Not a receipt that this ledger signed. `reason` is `malformed` or `unknown`."""

    code = "receipt_invalid"
    http_status = 400

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class WebhookInvalid(PayreError):
    """News that the payment processor did not sign, or not within the last minutes. Nothing of it was used."""

    code = "webhook_invalid"
    http_status = 400


class PayoutNotReady(PayreError):
    """Nothing can be paid out now. The earnings stay where they are."""

    code = "payout_not_ready"
    http_status = 409


class ProcessorError(PayreError):
    """The payment processor refused, or could not be reached. `reason` is its own code, such as `balance_insufficient`.

    With `outcome_unknown` it may have done what was asked: ask again by the same reference before anything is concluded.
    With `try_later` it did nothing, for a reason that is not in what was asked: too many requests, or a key that is not good.
    """

    code = "processor_error"
    http_status = 502

    def __init__(
        self, message: str, *, reason: str = "", outcome_unknown: bool = False, try_later: bool = False, request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.reason, self.outcome_unknown, self.try_later = reason, outcome_unknown, try_later
        self.request_id = request_id

    @property
    def is_refusal(self) -> bool:
        """Whether this very act was refused for good, so that nothing was done and nothing will be."""
        return not (self.outcome_unknown or self.try_later)


class Problem(NamedTuple):
    """One thing wrong with a price: a stable code, where it stands, and a sentence with advice."""

    code: str
    path: str
    message: str
    line: int = 0
    """The line of the price file, from 1; 0 where the price stands in code."""

    @property
    def place(self) -> str:
        """`14 tools.render.price`, or the path alone where there are no lines."""
        return f"{self.line} {self.path}".rstrip() if self.line else self.path


class PriceSpecInvalid(PayreError):
    """A price that cannot be used. Nothing starts with one. `problems` lists all that is wrong, `source` is the file."""

    code = "price_spec_invalid"
    http_status = 422

    def __init__(self, problems: Sequence[Problem], *, source: str | None = None) -> None:
        super().__init__()
        self.problems = tuple(problems)
        self.source = source

    @property
    def message(self) -> str:
        """Every problem on a line of its own: `pricing.yaml:14 tools.render.price: price_negative: ...`."""
        file = f"{self.source}:" if self.source else ""
        return "\n".join(f"{file}{each.place}: {each.code}: {each.message}" for each in self.problems)


class SettingsInvalid(PayreError):
    """A setting is unknown or has a value that cannot be used."""

    code = "settings_invalid"


class LedgerInvalid(PayreError):
    """The database is no ledger that this version can use. It is left as it is; nothing can be charged with it."""

    code = "ledger_invalid"


class PayreUnavailable(PayreError):
    """The ledger cannot be reached, is full of work, or has stopped. Priced calls do not run without it."""

    code = "payre_unavailable"
    http_status = 503
    retryable = True

    def __init__(self, message: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message or "the payment ledger cannot be reached; nothing ran and nothing was charged")
        self.retry_after_s = retry_after_s
