"""What the wallet's reports answer: limits of the key, spending of the account, servers that sell. Written as `facts` are."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field

from payre_mcp.directory import LimitWindow, per_window
from payre_mcp.gateway.catalogue import is_plain_target, plain_price
from payre_mcp.gateway.views import LimitsView, LimitView, Period, ServerView, Spending, Spent, SpentOn
from payre_mcp.money import Money
from payre_mcp.wallet.facts import utc

_MOST_TARGETS = 100
_MOST_PRICES = 20
_IN_PERIOD: dict[Period, str] = {"today": "today (UTC)", "month": "this month (UTC)", "all": "in all"}


def _exact(amount: Money) -> str:
    return f"{amount} ({amount.micros} micros)"


class LimitFacts(BaseModel):
    """One limit."""

    window: LimitWindow = Field(description="call, day or month; tool: a day of one tool")
    tool: str | None = Field(description="The tool, of a limit of one tool")
    limit_micros: int
    limit_usd: str
    used_micros: int | None = Field(
        description="Charged, and held for running calls, in the current window; null for a limit per call"
    )
    used_usd: str | None
    left_micros: int
    left_usd: str
    resets_at: str | None = Field(description="When the window starts anew; null for a limit per call")

    @classmethod
    def of(cls, view: LimitView) -> Self:
        """The facts of a limit."""
        left, counted = Money(max(0, view.limit.micros - view.used.micros)), view.window != "call"
        return cls(
            window=view.window, tool=view.tool or None, limit_micros=view.limit.micros, limit_usd=view.limit.usd,
            used_micros=view.used.micros if counted else None, used_usd=view.used.usd if counted else None,
            left_micros=left.micros, left_usd=left.usd, resets_at=utc(view.resets_at) if view.resets_at else None,
        )  # fmt: skip

    def line(self) -> str:
        """One line of a list."""
        limit = f"{_exact(Money(self.limit_micros))} {per_window(self.window, f'the tool {self.tool}')}"
        if self.used_micros is None:
            return f"{limit}."
        used, left = Money(self.used_micros), Money(self.left_micros)
        return f"{limit}: {_exact(used)} used, {_exact(left)} left until {self.resets_at}."


class LimitsFacts(BaseModel):
    """What a key may still spend."""

    key: str = Field(examples=["pyr_ck_test_...a1b2"])
    server: str | None = Field(description="The one server that takes this key; null for all")
    expires_at: str | None = Field(description="When the key ends; null for never")
    limits: list[LimitFacts]

    @classmethod
    def of(cls, view: LimitsView) -> Self:
        """The facts of a key's limits."""
        limits = [LimitFacts.of(each) for each in view.limits]
        return cls(
            key=view.key, server=view.server or None, expires_at=utc(view.expires_at) if view.expires_at else None, limits=limits
        )

    def sentence(self) -> str:
        """Everything above, a line for each limit."""
        where = f"server {self.server} alone" if self.server else "every server"
        until = f"until {self.expires_at}" if self.expires_at else "and does not expire"
        head = f"The key {self.key} works at {where} {until}."
        if not self.limits:
            return f"{head} It has no spending limits: only the balance bounds it."
        return "\n".join([f"{head} It may spend at most:", *(limit.line() for limit in self.limits)])


class SpentFacts(BaseModel):
    """What charges add up to."""

    charges: int
    amount_micros: int = Field(description="Charged; what was refunded is not taken out")
    amount_usd: str
    credit_micros: int = Field(description="How much of the amount was free credit")
    credit_usd: str
    refunded_micros: int = Field(description="How much of these charges was given back")
    refunded_usd: str
    newest_at: str | None = Field(description="The newest charge; null where there is none")

    @classmethod
    def of(cls, spent: Spent) -> Self:
        """The facts of a sum."""
        return cls.model_validate(_sums(spent))

    def words(self) -> str:
        """Everything above."""
        amount, credit, refunded = Money(self.amount_micros), Money(self.credit_micros), Money(self.refunded_micros)
        newest = f"; the newest at {self.newest_at}" if self.newest_at else ""
        return (
            f"{_exact(amount)} in {self.charges} charge{'' if self.charges == 1 else 's'}, {_exact(credit)} of it free credit; "
            f"{_exact(refunded)} refunded{newest}"
        )


class TargetFacts(SpentFacts):
    """What was spent on one thing of one server."""

    server: str
    kind: str = Field(examples=["tool"])
    name: str

    @classmethod
    def on(cls, spent_on: SpentOn) -> Self:
        """The facts of a target."""
        target = spent_on.target
        return cls.model_validate(_sums(spent_on.spent) | {"server": spent_on.server, "kind": target.kind, "name": target.name})


class SpendingFacts(BaseModel):
    """What the account spent."""

    period: Period
    since: str | None = Field(description="When the period began; null for all time")
    total: SpentFacts
    targets: list[TargetFacts] = Field(description="By server and tool, the newest activity first")
    targets_left_off: int = Field(description="Targets that are in the total and not in the list")
    cut: bool = Field(description="Only the newest charges were read: the period has older ones")

    @classmethod
    def of(cls, spending: Spending) -> Self:
        """The facts of a report."""
        targets = sorted(spending.targets, key=lambda each: (-each.spent.newest_at, each.server, each.target))
        return cls(
            period=spending.period, since=utc(spending.since) if spending.since else None, total=SpentFacts.of(spending.total),
            targets=[TargetFacts.on(each) for each in targets[:_MOST_TARGETS]],
            targets_left_off=max(0, len(targets) - _MOST_TARGETS), cut=spending.cut,
        )  # fmt: skip

    def sentence(self) -> str:
        """Everything above, a line for each target."""
        since = f" since {self.since}" if self.since else ""
        lines = [f"Spent {_IN_PERIOD[self.period]}{since}: {self.total.words()}."]
        lines += [f"{each.kind} {each.name} of {each.server}: {each.words()}." for each in self.targets]
        if self.targets_left_off:
            lines.append(f"{self.targets_left_off} more are in the total and not listed.")
        if self.cut:
            lines.append(f"Only the newest {self.total.charges} charges were read; the period has older ones.")
        return "\n".join(lines)


class PriceFacts(BaseModel):
    """What one thing costs."""

    kind: str = Field(examples=["tool"])
    name: str
    price: str = Field(examples=["Costs $0.005 per call."])


class ServerFacts(BaseModel):
    """A server that sells."""

    server: str = Field(description="Its name; its id where the name is more than letters, digits and the signs _ . -")
    tools: int
    resources: int
    prompts: int
    prices: list[PriceFacts] = Field(description="What is priced, 20 at most")
    prices_left_off: int = Field(description="Priced things that are not in the list")

    @classmethod
    def of(cls, view: ServerView) -> Self:
        """The facts of a server."""
        kinds = [target.kind for target, _ in view.prices]
        prices = [
            PriceFacts(kind=target.kind, name=target.name, price=plain_price(spec))
            for target, spec in view.prices
            if is_plain_target(target.name)
        ][:_MOST_PRICES]
        return cls(
            server=view.server, tools=kinds.count("tool"), resources=kinds.count("resource"), prompts=kinds.count("prompt"),
            prices=prices, prices_left_off=len(view.prices) - len(prices),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """Everything above."""
        counts = f"{self.tools} priced tools, {self.resources} resources, {self.prompts} prompts"
        more = [f"- {self.prices_left_off} more are not listed"] if self.prices_left_off else []
        return [f"{self.server}: {counts}.", *(f"- {each.kind} {each.name}: {each.price}" for each in self.prices), *more]


class ServersFacts(BaseModel):
    """The servers that sell."""

    servers: list[ServerFacts]
    more: bool = Field(description="There are more servers than are listed: ask with a query")

    @classmethod
    def of(cls, found: tuple[Sequence[ServerView], bool]) -> Self:
        """The facts of a search."""
        views, more = found
        return cls(servers=[ServerFacts.of(view) for view in views], more=more)

    def sentence(self) -> str:
        """Everything above."""
        lines = [line for server in self.servers for line in server.lines()] or ["No server was found."]
        return "\n".join([*lines, *(["There are more servers: ask with a query."] if self.more else [])])


def _sums(spent: Spent) -> dict[str, object]:
    amounts = {"amount": Money(spent.amount), "credit": Money(spent.credit), "refunded": Money(spent.refunded)}
    facts: dict[str, object] = {"charges": spent.charges, "newest_at": utc(spent.newest_at) if spent.newest_at else None}
    for name, amount in amounts.items():
        facts |= {f"{name}_micros": amount.micros, f"{name}_usd": amount.usd}
    return facts
