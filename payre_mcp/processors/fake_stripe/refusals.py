"""The errors that Stripe answers with."""

from typing import Any


class Refusal(Exception):
    """An answer that is an error.

    `executed` says that Stripe had begun to act: then an idempotency key keeps this answer as it keeps a success.
    """

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", code: str | None = None,
        param: str | None = None, executed: bool = True, **details: Any,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.message, self.status, self.kind, self.code, self.executed = message, status, kind, code, executed
        self._facts = {"code": code, "param": param, **details}

    def envelope(self) -> dict[str, Any]:
        """The error as it goes over the wire."""
        facts = {name: fact for name, fact in self._facts.items() if fact is not None}
        return {"error": {"message": self.message, "type": self.kind, **facts}}


def invalid(message: str, param: str, *, code: str | None = None) -> Refusal:
    """A parameter that is no good: Stripe had not begun to act."""
    return Refusal(message, code=code, param=param, executed=False)


def missing(what: str, wanted: str, *, param: str = "id") -> Refusal:
    """An id that belongs to nothing: 404 where the address named it, 400 where a parameter did."""
    status = 404 if param == "id" else 400
    return Refusal(f"No such {what}: '{wanted}'", status=status, code="resource_missing", param=param)
