"""Waiting for the writer's thread in an event loop, asyncio or trio, without either of them knowing the other."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio.lowlevel import RunVar, current_token

from payre_mcp.errors import PayreError
from payre_mcp.ledger.model import Command, Done, Extend, Extended, OpenHold
from payre_mcp.ledger.state import Answer
from payre_mcp.ledger.writer import Ticket, Writer


class AsyncWriter:
    """The writer for coroutines: one mailbox per event loop, so that a batch wakes each loop once."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._mailbox: RunVar[_LoopMailbox] = RunVar("payre_mailbox")

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
        waiter = self.submit(command)
        try:
            await waiter.answered.wait()
        except BaseException:
            waiter.leave()
            raise
        assert waiter.answer is not None
        if isinstance(waiter.answer, PayreError):
            raise waiter.answer
        return waiter.answer

    def submit(self, command: Command) -> "_Waiter":
        """Submit a command without waiting for it."""
        mailbox = self._mailbox.get(None)
        if mailbox is None:
            mailbox = _LoopMailbox()
            self._mailbox.set(mailbox)
        waiter = _Waiter(mailbox, self._writer)
        self._writer.submit(command, waiter)
        return waiter


class _LoopMailbox:
    def __init__(self) -> None:
        loop: Any = current_token().native_token
        self._call_soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def deliver(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        """One thread-safe call for a whole batch; raises where the loop has closed."""
        self._call_soon(_wake, answered)


class _Waiter(Ticket):
    __slots__ = ("_writer", "answer", "answered")

    def __init__(self, mailbox: _LoopMailbox, writer: Writer) -> None:
        super().__init__(mailbox)
        self._writer = writer
        self.answered = anyio.Event()
        self.answer: Answer | None = None

    def leave(self) -> None:
        """The caller goes; whichever comes second, its going or the answer, gives a hold back."""
        self.abandoned = True
        if self.answer is not None:
            self._writer.give_back(self.answer)


def _wake(answered: Sequence[tuple[_Waiter, Answer]]) -> None:
    for waiter, answer in answered:
        waiter.answer = answer
        waiter.answered.set()
        if waiter.abandoned:
            waiter.leave()
