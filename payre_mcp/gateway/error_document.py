"""An error as a document, `{"error": code, "message": text, ...data}`, and back to the same error at the other end."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from payre_mcp.errors import PayreError, PayreUnavailable, PriceSpecInvalid, Problem


def document_of(error: PayreError) -> dict[str, Any]:
    """Plain data that says all that the error knows."""
    document = {"error": error.code, "message": error.message, **error.data()}
    if isinstance(error, PriceSpecInvalid):
        document["problems"] = [problem._asdict() for problem in error.problems]
    return document


def error_of(document: Mapping[str, Any]) -> PayreError:
    """The error that made this document: of the same class, with the same message and data.

    A code of a newer version becomes a plain `PayreError` with its message. What is no such document becomes
    `PayreUnavailable`, since nobody can tell what happened.
    """
    code, message = document.get("error"), document.get("message")
    kind = next((each for each in _family(PayreError) if each.code == code), PayreError)
    try:
        error = _rebuilt(kind, str(message), document)
        error.data()
        if isinstance(code, str) and error.message == message:
            return error
    except (TypeError, ValueError, KeyError):
        pass
    if isinstance(code, str) and isinstance(message, str):
        return PayreError(message)
    return PayreUnavailable("the payment ledger's answer cannot be read; whether anything was booked is not known")


def _rebuilt(kind: type[PayreError], message: str, document: Mapping[str, Any]) -> PayreError:
    """Give the constructor what it takes: a sentence where it takes one, and the facts by name."""
    parameters = inspect.signature(kind.__init__).parameters
    facts = {name: document[name] for name in parameters if name in document and name not in {"message", "problems"}}
    if kind is PriceSpecInvalid:
        return PriceSpecInvalid([Problem(**problem) for problem in document["problems"]], **facts)
    if "message" not in parameters and "args" not in parameters:
        return kind(**facts)
    return kind(message.removesuffix(f". {facts['hint']}.") if "hint" in facts else message, **facts)


def _family(kind: type[PayreError]) -> Iterator[type[PayreError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
