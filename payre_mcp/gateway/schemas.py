"""The hub's HTTP contract, imported by both ends: what is sent to it and what it answers.

Requests take snake_case and camelCase names alike and refuse any other; answers are snake_case. Amounts are integers in
`*_micros` (1 USD = 1,000,000) with a decimal string in `*_usd` beside them; ids are strings; times are microseconds
since 1970 UTC. A refusal is the document of `payre_mcp.gateway.error_document`.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints
from pydantic.alias_generators import to_camel

from payre_mcp.gateway.base import CallOutcome, CallRequest, Replay, Settlement
from payre_mcp.money import MAX_MICROS, Money
from payre_mcp.pricing import Target, Usage

MOST_IN_A_BATCH = 256
"""Requests of one `POST /v1/batch`."""

REQUEST_ID = "Idempotency-Key"
"""The header that names one request: a second one with the same name and content finds what the first one did."""

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
Text = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=2048)]
Key = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=200)]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]*$", max_length=16_384)]
ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_. -]+$", min_length=1, max_length=128)]
RequestId = Annotated[str, StringConstraints(pattern=r"^[!-~]+$", min_length=1, max_length=255)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Kind = Literal["tool", "resource", "prompt"]
Micros = Annotated[int, Field(ge=0, le=MAX_MICROS)]
Ratio = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,40}(/[1-9][0-9]{0,39})?$")]


class Message(BaseModel):
    """What every message has: exact types, no unknown names."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class UsageSent(Message):
    """Base units by dimension (`tokens`, `input.tokens`), and what tiers may ask about, as fractions in text."""

    quantities: Mapping[Text, NonNegativeInt] = {}
    facts: Mapping[Text, Ratio] = {}

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """What is sent of a usage."""
        return cls(quantities=dict(usage.quantities), facts={name: str(Fraction(fact)) for name, fact in usage.facts.items()})

    def as_usage(self) -> Usage:
        """The usage that was sent."""
        return Usage(dict(self.quantities), {name: Fraction(text) for name, text in self.facts.items()})


class HoldRequest(Message):
    """`POST /v1/holds`: hold the most that a call may cost. Arguments never leave the seller: only their digest does."""

    api_key: Key | None = Field(None, repr=False)
    server: ServerName
    kind: Kind = "tool"
    name: Text
    price_version: Digest
    variant: Text = ""
    args_sha256: Digest
    known: UsageSent = UsageSent()
    max_price_micros: Micros | None = None
    idempotency_key: RequestId | None = None
    amount_micros: Micros | None = None
    """Held by hand, instead of what the price says and within it."""

    @classmethod
    def of(cls, request: CallRequest) -> Self:
        """What is sent of a call."""
        return cls(
            api_key=request.api_key, server=request.server, kind=cast("Kind", request.target.kind), name=request.target.name,
            price_version=request.price_version, variant=request.variant, args_sha256=request.args_sha256,
            known=UsageSent.of(request.known), idempotency_key=request.idempotency_key,
            max_price_micros=None if request.max_price is None else request.max_price.micros,
            amount_micros=None if request.amount is None else request.amount.micros,
        )  # fmt: skip

    def as_call(self, request_id: str = "") -> CallRequest:
        """The call that was sent."""
        limit, amount = self.max_price_micros, self.amount_micros
        return CallRequest(
            api_key=self.api_key, server=self.server, target=Target(self.kind, self.name), price_version=self.price_version,
            variant=self.variant, args_sha256=self.args_sha256, known=self.known.as_usage(), idempotency_key=self.idempotency_key,
            max_price=None if limit is None else Money(limit), amount=None if amount is None else Money(amount),
            request_id=request_id,
        )  # fmt: skip


class HeldAnswer(Message):
    """A hold. `token` is signed and says what it is for: capture, void, extend and resume want to see it again."""

    hold: str
    consumer: str
    held_micros: int
    held_usd: str
    expires_at: int
    token: str


class SettledAnswer(Message):
    """A charge. With `replayed` it was made before, under the same idempotency key, and `result` is its stored answer."""

    charge_id: str
    amount_micros: int
    amount_usd: str
    fee_micros: int
    fee_usd: str
    receipt: str
    sufficient: bool = True
    """Whether what is left covers the same amount again."""
    replayed: bool = False
    result: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, settled: Settlement | Replay) -> Self:
        """What is answered of a settlement. A balance is its consumer's alone."""
        replay = settled if isinstance(settled, Replay) else None
        first = settled.settlement if isinstance(settled, Replay) else settled
        return cls(
            charge_id=first.charge_id, amount_micros=first.amount.micros, amount_usd=first.amount.usd,
            fee_micros=first.fee.micros, fee_usd=first.fee.usd, receipt=first.receipt,
            sufficient=first.balance is None or first.balance >= first.amount,
            replayed=replay is not None, result=None if replay is None else replay.result,
        )  # fmt: skip

    def as_settled(self) -> Settlement | Replay:
        """The settlement that was answered."""
        settlement = Settlement(self.charge_id, Money(self.amount_micros), Money(self.fee_micros), self.receipt)
        return Replay(settlement, self.result) if self.replayed else settlement


class CaptureRequest(Message):
    """`POST /v1/holds/{hold}/capture`: charge what the call used. Never an amount: the ledger's side prices."""

    token: Token
    usage: UsageSent = UsageSent()
    result_sha256: Digest | None = None
    stored_result: str = Field("", max_length=256 * 1024)

    def as_outcome(self) -> CallOutcome:
        """What the call used and answered."""
        return CallOutcome(usage=self.usage.as_usage(), result_sha256=self.result_sha256, stored_result=self.stored_result)


class HoldAct(Message):
    """`POST /v1/holds/{hold}/void`, `extend` or `suspend`: release a hold, keep it for a running call, or for a waiting one."""

    token: Token


class ResumeRequest(Message):
    """`POST /v1/holds/{hold}/resume`: go on with a suspended call; of several who show the same `since`, one succeeds."""

    token: Token
    since: NonNegativeInt
    call: HoldRequest


class HoldState(Message):
    """A hold after void, extend or suspend: `expires_at` is 0 once it is released."""

    hold: str
    expires_at: int


class ChargeRequest(Message):
    """`POST /v1/charges`: hold and capture in one. The tool is published, and the amount is within its price."""

    api_key: Key = Field(repr=False)
    tool: Text
    amount: str | int | float | None = Field(None, description="US dollars, as in a price; or `amount_micros`")
    amount_micros: Micros | None = None
    server: ServerName | None = Field(None, description="Which server's; needed where several have a tool of this name")
    kind: Kind = "tool"
    price_version: Digest | None = Field(None, description="The published price; by default the current one")
    args_sha256: Digest | None = None
    idempotency_key: RequestId | None = Field(None, description="Where the `Idempotency-Key` header cannot be sent")


class RefundRequest(Message):
    """`POST /v1/charges/{charge}/refund`: return a charge, or a part of it. Wants an `Idempotency-Key`."""

    amount: str | int | float | None = None
    amount_micros: Micros | None = None


class RefundAnswer(Message):
    """What was returned to the consumer."""

    charge_id: str
    refunded_micros: int
    refunded_usd: str


class QuoteAnswer(Message):
    """`POST /v1/quotes` (a `HoldRequest`): where the counters of this consumer stand, in the order of the price's counters."""

    used_before: list[NonNegativeInt]


class KeyCheckRequest(Message):
    """`POST /v1/keys/check`: whether a consumer's key can pay at a server now."""

    api_key: Key = Field(repr=False)
    server: ServerName


class KeyCheckAnswer(Message):
    """Whether the key is good here and its account has money; never how much."""

    sufficient: bool


class PriceSent(Message):
    """One price of a list; `spec` is `PriceSpec.canonical()`, or anything that `load_price` takes."""

    kind: Kind = "tool"
    name: Text
    spec: Mapping[str, Any] | str | int | float


class PriceListRequest(Message):
    """`PUT /v1/servers/{server}/prices`: the whole price list, current from now on. A published version never changes."""

    prices: list[PriceSent] = Field(max_length=10_000)


class PublishedPrice(Message):
    """A price as it was recorded."""

    kind: Kind
    name: str
    version: str


class PriceListAnswer(Message):
    """The price list that is current now."""

    server: str
    prices: list[PublishedPrice]


Act = Literal["hold", "capture", "void", "extend", "suspend", "resume", "charge", "refund", "quote", "check"]


class BatchedRequest(Message):
    """One request of a batch. `id` names it over retries; `body` is that of its own endpoint; `of` is the charge of a refund."""

    id: RequestId
    act: Act
    body: Mapping[str, Any]
    of: Text = ""


class BatchRequest(Message):
    """`POST /v1/batch`: up to 256 requests, each decided on its own; order among them is not kept."""

    requests: list[BatchedRequest] = Field(min_length=1, max_length=MOST_IN_A_BATCH)


class BatchedAnswer(Message):
    """The answer to one request: `status` as its own endpoint's, `body` its answer or its error document."""

    id: str
    status: int
    body: Mapping[str, Any]


class BatchAnswer(Message):
    """One answer for each request, in order."""

    answers: list[BatchedAnswer]
