"""A fake Stripe at the level of its wire, for `payre dev` and for tests: it talks to a real stripe client and moves no money."""

from payre_mcp.processors.fake_stripe.chaos import Chaos
from payre_mcp.processors.fake_stripe.fake import FakeStripe

__all__ = ["Chaos", "FakeStripe"]
