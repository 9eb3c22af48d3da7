"""What wallet tools answer: the structured half of every answer, and the sentence that states the same.

Exact money: an integer of micros beside dollars for people. No text of a developer's own appears, only names.
"""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field

from payre_mcp.gateway.base import Balance, ChargePage, ChargeView, QuoteView, TopUpStatus, TopUpView
from payre_mcp.money import Money
from payre_mcp.pricing.describe import quote_lines
from payre_mcp.receipts import Receipt

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(microseconds: int) -> str:
    """A time as people and programs read it: `2026-11-21T22:00:00Z`."""
    return (_EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class CreditFacts(BaseModel):
    """Free credit at one server."""

    server: str
    available_micros: int
    available_usd: str


class BalanceFacts(BaseModel):
    """A consumer's money."""

    consumer: str = Field(description="The account", examples=["con_1m804gcw40400"])
    balance: str = Field(examples=["$4.995"])
    balance_micros: int = Field(description="1 USD = 1,000,000 micros", examples=[4995000])
    held: str = Field(description="Set aside for calls that run now")
    held_micros: int
    available: str = Field(description="What a new call may use")
    available_micros: int
    mode: str = Field(description="test or live money")
    credit: list[CreditFacts] = Field(description="Free credit by server, spent there before the balance and not part of it")

    @classmethod
    def of(cls, balance: Balance) -> "BalanceFacts":
        """The facts of a balance."""
        return cls(
            consumer=balance.consumer, balance=str(balance.balance), balance_micros=balance.balance.micros,
            held=str(balance.held), held_micros=balance.held.micros,
            available=str(balance.available), available_micros=balance.available.micros, mode=balance.mode,
            credit=[
                CreditFacts(server=each.server, available_micros=each.available.micros, available_usd=each.available.usd)
                for each in balance.credit
            ],
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above, for a reader."""
        credit = [f"${each.available_usd} ({each.available_micros} micros) at {each.server}" for each in self.credit]
        free = f" Free credit beside it: {', '.join(credit)}." if credit else ""
        return (
            f"Balance {self.balance} ({self.balance_micros} micros) of account {self.consumer}: {self.available} available "
            f"({self.available_micros} micros), {self.held} held for running calls ({self.held_micros} micros). "
            f"This is {self.mode} money.{free}"
        )


class TopUpFacts(BaseModel):
    """A top-up that was asked for."""

    top_up_id: str = Field(examples=["top_1m804gcw40400"])
    consumer: str = Field(description="The account that will be credited")
    amount: str = Field(examples=["$10.00"])
    amount_micros: int
    status: TopUpStatus
    url: str | None = Field(description="Where a person pays it; null where no page is served")
    expires_at: str = Field(examples=["2026-11-22T22:00:00Z"])

    @classmethod
    def of(cls, top_up: TopUpView) -> "TopUpFacts":
        """The facts of a top-up."""
        return cls(
            top_up_id=top_up.id, consumer=top_up.consumer, amount=str(top_up.amount), amount_micros=top_up.amount.micros,
            status=top_up.status, url=top_up.url, expires_at=utc(top_up.expires_at),
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above, and what to do next."""
        amount = f"{self.amount} ({self.amount_micros} micros)"
        facts = f"Top-up {self.top_up_id} of {amount} for account {self.consumer} is {self.status}."
        where = (
            f"Its page: {self.url} (until {self.expires_at})." if self.url else f"It has no page here (until {self.expires_at})."
        )
        return f"{facts} {where} {_NEXT[self.status]}"


_NEXT: dict[TopUpStatus, str] = {
    "pending": (
        "A person pays it on that page, or test money with `payre top-up` where the ledger is. Opening the page is not paying: "
        "ask get_top_up whether it arrived, at least 5 seconds apart."
    ),
    "processing": "The payment is on its way, which may take days, and not in the balance yet. Ask get_top_up again later.",
    "completed": "The money is in the balance.",
    "failed": "The payment did not go through and nothing was credited; ask for a new link.",
    "expired": "Nothing was credited; ask for a new link.",
}


class ChargeFacts(BaseModel):
    """One charged call."""

    charge_id: str = Field(examples=["chg_1m804gcw40400"])
    server: str
    kind: str = Field(examples=["tool"])
    name: str
    amount: str = Field(examples=["$0.005"])
    amount_micros: int
    created_at: str
    variant: str = Field(description="Which variant of the price the arguments chose; empty where there is none")
    lines: list[str] = Field(
        description="What a metered charge adds up from, rounded up once; empty for a fixed price",
        examples=[["800 input tokens: $0.0004"]],
    )
    receipt: str = Field(description="The signed receipt; check it with verify_receipt")

    @classmethod
    def of(cls, charge: ChargeView) -> "ChargeFacts":
        """The facts of a charge."""
        return cls(
            charge_id=charge.id, server=charge.server, kind=charge.kind, name=charge.name, amount=str(charge.amount),
            amount_micros=charge.amount.micros, created_at=utc(charge.created_at), variant=charge.variant,
            lines=list(charge.lines), receipt=charge.receipt,
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above."""
        return f"{self.line()} Receipt: {self.receipt}"

    def line(self) -> str:
        """One line of a list."""
        amount = f"{self.amount} ({self.amount_micros} micros)"
        variant = f" ({self.variant})" if self.variant else ""
        lines = f" It adds up from {'; '.join(self.lines)}." if self.lines else ""
        return f"{self.created_at} {self.charge_id}: {amount} for {self.kind} {self.name}{variant} of {self.server}.{lines}"


class ChargesFacts(BaseModel):
    """A page of charges, newest first."""

    charges: list[ChargeFacts]
    next_cursor: str | None = Field(description="Pass it as cursor for older charges; null at the end")

    @classmethod
    def of(cls, page: ChargePage) -> "ChargesFacts":
        """The facts of a page."""
        return cls(charges=[ChargeFacts.of(charge) for charge in page.charges], next_cursor=page.next_cursor)

    def sentence(self) -> str:
        """A line for each charge; its receipt is in the structured half and in get_charge."""
        if not self.charges:
            return "No charges."
        total = Money(sum(charge.amount_micros for charge in self.charges))
        more = f"\nOlder charges: call again with cursor {self.next_cursor}." if self.next_cursor else ""
        return "\n".join([f"{len(self.charges)} charges, {total} in all:", *(charge.line() for charge in self.charges)]) + more


class QuoteFacts(BaseModel):
    """What a call would cost."""

    server: str
    kind: str = Field(examples=["tool"])
    name: str
    price: str = Field(description="The price in words", examples=["Costs $0.005 per call."])
    variant: str = Field(description="Which variant of the price these arguments choose; empty where there is none")
    total: str | None = Field(description="What it would cost; before its usage is known, at most; null without its arguments")
    total_micros: int | None
    at_most: str | None = Field(description="What is held while it runs; null where that depends on the arguments")
    at_most_micros: int | None
    lines: list[str] = Field(examples=[["800 input tokens at $0.50 per 1,000,000: $0.0004"]])
    not_known: list[str] = Field(description="Quantities that were not given and are not known before the run")

    @classmethod
    def of(cls, view: QuoteView, *, before_the_run: bool) -> "QuoteFacts":
        """The facts of a quote."""
        quote, most = view.quote, view.quote.ceiling
        total = most if before_the_run else quote.total
        return cls(
            server=view.server, kind=view.target.kind, name=view.target.name, price=view.price, variant=quote.variant,
            total=None if total is None else str(total), total_micros=None if total is None else total.micros,
            at_most=None if most is None else str(most), at_most_micros=None if most is None else most.micros,
            lines=quote_lines(quote), not_known=list(quote.missing),
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above, for a reader."""
        variant = f" (variant {self.variant})" if self.variant else ""
        most = "" if self.at_most is None else f" At most {self.at_most} ({self.at_most_micros} micros) is held while it runs."
        unknown = f" Not known yet: {', '.join(self.not_known)}." if self.not_known else ""
        lines = "".join(f"\n{line}" for line in self.lines)
        total = "that depends on its arguments" if self.total is None else f"{self.total} ({self.total_micros} micros)"
        return f"A call of {self.kind} {self.name} of {self.server}{variant}: {total}.{most}{unknown} {self.price}{lines}"


class ReceiptFacts(BaseModel):
    """Whether a receipt is genuine, and what it says if it is."""

    valid: bool
    reason: str | None = Field(description="malformed, or unknown: forged, altered, or not this account's; null when valid")
    charge_id: str | None = None
    consumer: str | None = None
    developer: str | None = None
    server: str | None = None
    kind: str | None = None
    name: str | None = None
    amount: str | None = None
    amount_micros: int | None = None
    issued_at: str | None = None
    mode: str | None = None

    @classmethod
    def of(cls, receipt: Receipt) -> "ReceiptFacts":
        """The facts of a genuine receipt."""
        return cls(
            valid=True, reason=None, charge_id=receipt.charge_id, consumer=receipt.consumer, developer=receipt.developer,
            server=receipt.server, kind=receipt.kind, name=receipt.name, amount=str(receipt.amount),
            amount_micros=receipt.amount_micros, issued_at=utc(receipt.issued_at * 1_000_000), mode=receipt.mode,
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above."""
        if not self.valid:
            return f"Not a valid receipt ({self.reason}): this ledger did not sign it for this account, or it was altered since."
        return (
            f"Valid receipt: charge {self.charge_id}, {self.amount} ({self.amount_micros} micros, {self.mode} money) for "
            f"{self.kind} {self.name} of server {self.server}, paid by {self.consumer} to {self.developer} at {self.issued_at}."
        )
