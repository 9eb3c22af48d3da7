"""`payre demo`: the whole story over real HTTP, each step checked."""

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp_types import CallToolResult

from payre_mcp.cli.output import command_settings, emit
from payre_mcp.money import Money
from payre_mcp.testing import Sandbox, sandbox

RACERS = 8


@dataclass
class Step:
    """One sentence of the story: what happened, and whether it is what had to happen."""

    title: str
    facts: str
    ok: bool


class _Story:
    """Plays the steps against a sandbox, and tells each as it happens."""

    def __init__(self, box: Sandbox, server: Client, wallet: Client, tell: Callable[[Step], None]) -> None:
        self.box, self.server, self.wallet, self.tell = box, server, wallet, tell
        self.steps: list[Step] = []
        self.receipt = ""

    async def play(self) -> None:
        """All of it, in order."""
        chapters: tuple[tuple[str, Callable[[], Awaitable[tuple[str, bool]]]], ...] = (
            ("A paid tool says its price", self.price),
            ("No money: the call is refused before it runs", self.refused),
            ("A person pays the top-up link", self.top_up),
            ("A paid call answers with a receipt", self.paid_call),
            ("A failing call costs nothing", self.failing_call),
            ("A large call leaves one cent", self.large_call),
            (f"{RACERS} calls race for the last cent", self.race),
            ("The receipt is genuine", self.verified),
            ("A forged receipt is rejected", self.forged),
            ("The agent asks its wallet", self.wallet_answers),
            ("The ledger is audited", self.audited),
        )
        for title, chapter in chapters:
            facts, ok = await chapter()
            self.steps.append(Step(title, facts, ok))
            self.tell(self.steps[-1])

    async def price(self) -> tuple[str, bool]:
        tools = {tool.name: tool for tool in (await self.server.list_tools()).tools}
        description = tools["forecast"].description or ""
        return f"forecast: {description!r}; cities is free", "$0.005" in description and "Cost" not in (
            tools["cities"].description or ""
        )

    async def refused(self) -> tuple[str, bool]:
        result = await self.call("forecast")
        return text(result), result.is_error is True and facts_of(result)["error"] == "insufficient_balance"

    async def top_up(self) -> tuple[str, bool]:
        link = facts_of(await self.wallet.call_tool("create_top_up_link", {"amount_usd": "5"}))
        async with httpx2.AsyncClient(follow_redirects=True) as browser:
            page = await browser.get(link["url"])
            pressed = [await browser.post(link["url"]) for _ in range(2)]
        state = facts_of(await self.wallet.call_tool("get_top_up", {"top_up_id": link["top_up_id"]}))["status"]
        named = link["consumer"] in page.text and "$5.00" in page.text
        balance = await self.balance()
        ok = named and all(page.status_code == 200 for page in pressed) and state == "completed" and balance == Money.parse(5)
        return f"the page names {link['consumer']} and $5.00; pressed twice, credited once: balance {balance}", ok

    async def paid_call(self) -> tuple[str, bool]:
        result = await self.call("forecast")
        self.receipt = (result.meta or {}).get("dev.payre/receipt", "")
        balance = await self.balance()
        return f"{text(result)!r}; receipt {self.receipt[:24]}...; balance {balance}", bool(
            self.receipt
        ) and balance == Money.parse("4.995")

    async def failing_call(self) -> tuple[str, bool]:
        result = await self.call("station")
        balance = await self.balance()
        return f"{text(result)!r}; balance still {balance}", result.is_error is True and balance == Money.parse("4.995")

    async def large_call(self) -> tuple[str, bool]:
        result = await self.call("archive")
        balance = await self.balance()
        return f"{text(result)!r}; balance {balance}", not result.is_error and balance == Money.parse("0.01")

    async def race(self) -> tuple[str, bool]:
        results: list[CallToolResult] = []

        async def racer() -> None:
            results.append(await self.call("radar"))

        async with anyio.create_task_group() as group:
            for _ in range(RACERS):
                group.start_soon(racer)
        won = sum(not result.is_error for result in results)
        balance = await self.balance()
        return f"{won} of {len(results)} ran, the others were refused; balance {balance}", won == 1 and not balance

    async def verified(self) -> tuple[str, bool]:
        result = await self.wallet.call_tool("verify_receipt", {"receipt": self.receipt})
        return text(result), facts_of(result)["valid"] is True and facts_of(result)["amount_micros"] == 5000

    async def forged(self) -> tuple[str, bool]:
        head, payload, signature = self.receipt.split(".")
        forged = f"{head}.{payload[:-4]}{'AAAA' if payload[-4:] != 'AAAA' else 'BBBB'}.{signature}"
        result = await self.wallet.call_tool("verify_receipt", {"receipt": forged})
        return text(result), facts_of(result)["valid"] is False

    async def wallet_answers(self) -> tuple[str, bool]:
        balance = await self.wallet.call_tool("get_balance", {})
        charges = facts_of(await self.wallet.call_tool("list_charges", {}))["charges"]
        names = [charge["name"] for charge in charges]
        return f"{text(balance)} Charges: {', '.join(names)}", names == ["radar", "archive", "forecast"]

    async def audited(self) -> tuple[str, bool]:
        report = await anyio.to_thread.run_sync(self.box.audit)
        facts = (
            f"{report.transfers} transfers; topped up {Money(report.topped_up_micros)} = balances {Money(report.balances_micros)}"
            f" + developer {Money(report.earned_micros)} + fees {Money(report.fees_micros)}"
        )
        return facts, report.ok and report.open_holds == 0

    async def call(self, tool: str) -> CallToolResult:
        return await self.server.call_tool(tool, {"city": "Oslo"})

    async def balance(self) -> Money:
        return (await self.box.balance()).available


def run(*, json: bool) -> int:
    """Play the story; answers the exit code."""
    command_settings()
    started = time.perf_counter()
    steps = anyio.run(_play, _keep_quiet if json else _tell)
    ok = all(step.ok for step in steps)
    seconds = round(time.perf_counter() - started, 1)
    document = {"ok": ok, "seconds": seconds, "steps": [vars(step) for step in steps]}
    end = f"\nEverything held, in {seconds} seconds." if ok else "\nSOMETHING DID NOT HOLD: see the steps marked with !!"
    emit(document, [end], as_json=json)
    return 0 if ok else 1


async def _play(tell: Callable[[Step], None]) -> list[Step]:
    async with sandbox(balance="0") as box, box.client() as server, box.client(url=box.wallet_url) as wallet:
        story = _Story(box, server, wallet, tell)
        await story.play()
        return story.steps


def _tell(step: Step) -> None:
    sys.stdout.write(f"{'ok' if step.ok else '!!'}  {step.title}\n      {step.facts}\n")
    sys.stdout.flush()


def _keep_quiet(step: Step) -> None:
    """Machines read the whole story at its end."""


def text(result: CallToolResult) -> str:
    """What a person reads of a result."""
    return " ".join(block.text for block in result.content if block.type == "text")


def facts_of(result: CallToolResult) -> dict[str, Any]:
    """What a program reads of a result."""
    return result.structured_content or {}
