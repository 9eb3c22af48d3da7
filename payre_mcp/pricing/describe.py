"""A price in words for people and models, and as a card for programs."""

from typing import Any

from payre_mcp.pricing.spec import PriceSpec


def price_sentence(spec: PriceSpec) -> str:
    """One sentence for the end of a description: `Costs $0.005 per call.`"""
    return "Free; recorded when you send a Payre key." if spec.is_free else f"Costs {spec.ceiling()} per call."


def price_card(spec: PriceSpec) -> dict[str, Any]:
    """The machine-readable price in list results: version, sentence, dimensions, the most a call can cost."""
    ceiling = spec.ceiling()
    return {
        "version": spec.version,
        "currency": "USD",
        "description": price_sentence(spec),
        **spec.canonical(),
        "max_usd": ceiling.usd,
        "max_micros": ceiling.micros,
    }
