"""Waiting for a thread in an event loop, asyncio or trio, without either of them knowing the other."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio.lowlevel import RunVar, current_token

from payre_mcp.errors import PayreError
from payre_mcp.ledger.lanes import LedgerWriter
from payre_mcp.ledger.model import Command, Done, Extend, Extended, OpenHold
from payre_mcp.ledger.writer import Ticket


class AsyncWriter:
    """The writer for coroutines: one mailbox per event loop, so that a batch wakes each loop once."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer, self._waiting = writer, Waiting()

    async def ask(self, command: Command) -> Done:
        """Submit a command and wait until it is done.

        A caller that is cancelled does not undo its command, save for a hold, which is given back.

        Raises:
            PayreError: What the ledger answered instead.
        """
        answer = await self._answer(command)
        assert isinstance(answer, Done)
        return answer

    async def extend(self, command: Extend) -> OpenHold:
        """Move the end of a hold; answers it as it stands then. Raises `PayreError`."""
        answer = await self._answer(command)
        assert isinstance(answer, Extended)
        return answer.hold

    async def _answer(self, command: Command) -> Done | Extended:
        answer = await self.submit(command).wait()
        if isinstance(answer, PayreError):
            raise answer
        return answer

    def submit(self, command: Command) -> "Waiter":
        """Submit a command without waiting for it."""
        waiter = self._waiting.waiter(self._writer.give_back)
        self._writer.submit(command, waiter)
        return waiter


class Waiting:
    """Makes waiters: those of one event loop share a mailbox."""

    def __init__(self) -> None:
        self._mailbox: RunVar[_LoopMailbox] = RunVar("payre_mailbox")

    def waiter(self, on_left: Callable[[Any], None]) -> "Waiter":
        """A claim of the running task; `on_left` gets an answer that came after it had gone."""
        mailbox = self._mailbox.get(None)
        if mailbox is None:
            mailbox = _LoopMailbox()
            self._mailbox.set(mailbox)
        return Waiter(mailbox, on_left)


class Waiter(Ticket):
    """A task that waits for a thread's answer."""

    __slots__ = ("_on_left", "answer", "answered")

    def __init__(self, mailbox: "_LoopMailbox", on_left: Callable[[Any], None]) -> None:
        super().__init__(mailbox)
        self._on_left = on_left
        self.answered = anyio.Event()
        self.answer: Any = None

    async def wait(self) -> Any:
        """The answer. Whoever is cancelled here has left."""
        try:
            await self.answered.wait()
        except BaseException:
            self.leave()
            raise
        assert self.answer is not None
        return self.answer

    def leave(self) -> None:
        """The caller goes; whichever comes second, its going or the answer, hands the answer back."""
        self.abandoned = True
        if self.answer is not None:
            self._on_left(self.answer)


class _LoopMailbox:
    def __init__(self) -> None:
        loop: Any = current_token().native_token
        self._call_soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def deliver(self, answered: Sequence[tuple[Ticket, Any]]) -> None:
        """One thread-safe call for a whole batch; raises where the loop has closed."""
        self._call_soon(_wake, answered)


def _wake(answered: Sequence[tuple[Waiter, Any]]) -> None:
    for waiter, answer in answered:
        waiter.answer = answer
        waiter.answered.set()
        if waiter.abandoned:
            waiter.leave()
