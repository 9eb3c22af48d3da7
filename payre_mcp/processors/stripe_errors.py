"""What the stripe package raises, as a `ProcessorError`: what happened, what it means for the money, what to do.

A message holds Stripe's own code and nothing else that Stripe said, which may name a person.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import stripe

from payre_mcp.errors import ProcessorError

logger = logging.getLogger(__name__)

_IN_FLIGHT = 409

_NOT_OF_THE_ACT = (stripe.RateLimitError, stripe.AuthenticationError, stripe.PermissionError)
"""Refused before anybody looked at what was asked for."""


@contextmanager
def in_our_words() -> Generator[None]:
    """What Stripe refuses or does not answer in here is raised as a `ProcessorError`.

    An outcome is known only where Stripe itself refused: a lost or broken answer, a fault on its side, a request with the same
    reference that still runs, and one that was made with other content, all leave it open.
    """
    try:
        yield
    except stripe.StripeError as error:
        told = _told(error)
        if isinstance(error, stripe.IdempotencyError) and not _leaves_it_open(error):
            logger.exception("a reference was used with two contents at Stripe")
        raise told from error


def refusal(error: stripe.StripeError) -> dict[str, Any]:
    """What stands under `error` in Stripe's answer; empty where there was none."""
    body = error.json_body
    details = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    return cast("dict[str, Any]", details) if isinstance(details, dict) else {}


def _told(error: stripe.StripeError) -> ProcessorError:
    details = refusal(error)
    reason = str(details.get("decline_code") or details.get("code") or details.get("type") or "no_answer")
    return ProcessorError(
        f"{_sentence(error, reason, details.get('param'))}{f' (Stripe request {error.request_id})' if error.request_id else ''}",
        reason=reason,
        outcome_unknown=_leaves_it_open(error) or isinstance(error, stripe.IdempotencyError),
        try_later=isinstance(error, _NOT_OF_THE_ACT),
        request_id=error.request_id or "",
    )


def _leaves_it_open(error: stripe.StripeError) -> bool:
    status = error.http_status
    is_answerless = isinstance(error, stripe.APIError | stripe.APIConnectionError)
    return is_answerless or status is None or status == _IN_FLIGHT or status >= 500


def _sentence(error: stripe.StripeError, reason: str, parameter: object) -> str:
    if _leaves_it_open(error):
        return (
            f"Stripe did not answer, or not clearly ({reason}): whether it did what was asked is not known. "
            "Ask again with the same reference; nothing is done twice"
        )
    match error:
        case stripe.RateLimitError():
            return "Stripe is asked too much at the moment and did nothing. Try again in a minute"
        case stripe.AuthenticationError():
            return "Stripe does not know the API key, so nothing was done. Check the configuration: the key may have been rolled"
        case stripe.PermissionError():
            return (
                "The Stripe API key may not do this, so nothing was done. Check the configuration: "
                "give the key this permission, or use one that has it"
            )
        case stripe.IdempotencyError():
            return (
                "The same reference was used with other content before, so Stripe did nothing now; what was done then stands. "
                "It is looked up by its reference when the key has run out; or look it up in Stripe's dashboard"
            )
        case stripe.CardError():
            return f"The card was declined ({reason}), so no money moved"
        case _:
            where = f" of {parameter}" if parameter else ""
            return f"Stripe refused ({reason}{where}), so nothing was done"
