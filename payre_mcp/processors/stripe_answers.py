"""Stripe's answers as plain dicts, whole lists too; no object of the stripe package goes further."""

from collections.abc import Awaitable
from typing import Any, Protocol

import stripe

from payre_mcp.processors.stripe_errors import in_our_words
from payre_mcp.processors.stripe_reading import unreadable


class _Page(Protocol):
    """A page of either API."""

    def auto_paging_iter(self) -> Any:
        """Everything from here on; asks for further pages as it goes."""
        ...


async def answer(call: Awaitable[stripe.StripeObject]) -> dict[str, Any]:
    """One object. Raises `ProcessorError`."""
    with in_our_words():
        return (await call).to_dict(for_json=True)


async def whole_list(call: Awaitable[_Page]) -> list[dict[str, Any]]:
    """A list with all its pages, in Stripe's order: newest first. Raises `ProcessorError`."""
    with in_our_words():
        page = await call
        try:
            things = [each async for each in page.auto_paging_iter()]
            return [each.to_dict(for_json=True) for each in things]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The package trusts that a list is one.
            raise unreadable("a list") from error
