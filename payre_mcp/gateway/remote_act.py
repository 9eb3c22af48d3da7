"""One act on its way to the hub: what is sent, the same at every try, and what becomes of its answer."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from payre_mcp.errors import PayreError
from payre_mcp.gateway.error_document import error_of
from payre_mcp.gateway.hub_http import LONGEST_WAIT_S
from payre_mcp.gateway.schemas import (
    MOST_IN_A_BATCH,
    Act,
    BatchedAnswer,
    BatchedRequest,
    HeldAnswer,
    HoldState,
    KeyCheckAnswer,
    Message,
    QuoteAnswer,
    RefundAnswer,
    SettledAnswer,
)
from payre_mcp.ledger.writer import Ticket

Answered = Message | PayreError

_ANSWERS: Mapping[Act, Sequence[type[Message]]] = {
    "hold": (HeldAnswer, SettledAnswer),
    "resume": (HeldAnswer,),
    "capture": (SettledAnswer,),
    "charge": (SettledAnswer,),
    "void": (HoldState,),
    "extend": (HoldState,),
    "suspend": (HoldState,),
    "refund": (RefundAnswer,),
    "quote": (QuoteAnswer,),
    "check": (KeyCheckAnswer,),
}
"""What each act may be answered with."""

_HOLDING, _ENDING = {"hold", "resume"}, {"capture", "void", "extend"}
_LONGEST_PAUSE_S = 2.0


class PendingAct:
    """An act, from its caller to its answer. Belongs to the lane, under its lock."""

    __slots__ = ("act", "due_s", "give_up_s", "is_unknown", "on_left", "request_id", "sent", "share", "ticket", "tries")

    def __init__(
        self,
        act: Act,
        body: Message,
        *,
        request_id: str,
        ticket: Ticket,
        give_up_s: float,
        on_left: Callable[[Answered], None],
        of: str = "",
    ) -> None:
        request = BatchedRequest(id=request_id, act=act, body=body.model_dump(mode="json", exclude_defaults=True), of=of)
        self.act: Act = act
        self.request_id = request_id
        self.sent = request.model_dump_json(exclude_defaults=True).encode()
        self.ticket, self.give_up_s, self.on_left = ticket, give_up_s, on_left
        self.is_unknown = False
        """It may have reached the hub, and what it did there is not known."""
        self.share = MOST_IN_A_BATCH
        """In how large a batch it may travel: halved whenever its batch fails."""
        self.tries = 0
        self.due_s = 0.0

    @property
    def is_end(self) -> bool:
        """Whether it goes on without its caller: the end of a hold is tried until it is answered."""
        return self.act in _ENDING

    @property
    def is_pointless(self) -> bool:
        """Whether nobody waits for it, and it has done nothing that would have to be undone."""
        if self.is_end or not self.ticket.abandoned:
            return False
        return not (self.is_unknown and self.leaves_traces)

    @property
    def leaves_traces(self) -> bool:
        """Whether it makes or ends a hold, so that somebody has to hear what became of it."""
        return self.act in _HOLDING or self.is_end

    def pause_s(self) -> float:
        """How long to wait before the next try: longer each time, and not in step with other sellers."""
        return min(0.03 * 2 ** min(self.tries, 10), _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)  # noqa: S311

    def read(self, answer: BatchedAnswer | None) -> Answered | None:
        """What was answered; None where that cannot be told, so that it has to be asked again."""
        if answer is None or answer.id != self.request_id:
            return None
        if answer.status >= 400:
            error = error_of(answer.body)
            is_broken = answer.status >= 500 and type(error) is PayreError
            return None if is_broken or "error" not in answer.body else error
        for model in _ANSWERS[self.act]:
            try:
                return model.model_validate(answer.body, extra="ignore")
            except ValidationError:
                continue
        return None

    def waits_s(self, answer: Answered) -> float | None:
        """How long the hub asks to wait before the same is asked again; None where this is the answer."""
        if not self.is_end or not isinstance(answer, PayreError) or not answer.retryable:
            return None
        asked: Any = getattr(answer, "retry_after_s", 1.0)
        return min(asked, LONGEST_WAIT_S) if isinstance(asked, int | float) else 1.0


class Unattended(Ticket):
    """The ticket of an act for which nobody waits: what is left to do with its answer is done where it arrives."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NOBODY)
        self.abandoned = True


class _Nobody:
    def deliver(self, answered: Sequence[tuple[Ticket, Any]]) -> None:
        """Never called: the ticket was abandoned from the beginning."""
        raise AssertionError("an unattended act has no mailbox")


_NOBODY = _Nobody()
