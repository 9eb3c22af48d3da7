"""What a call costs. Pure: no I/O, no clock, integers and exact fractions only.

`load_price` reads any form of a price into a `PriceSpec`; the spec quotes a call and states its ceiling.
"""

from payre_mcp.pricing.load import Price, PriceSource, load_price
from payre_mcp.pricing.spec import Dimension, PriceSpec, Quote, QuoteLine, Target, Tier, Variant

__all__ = [
    "Dimension",
    "Price",
    "PriceSource",
    "PriceSpec",
    "Quote",
    "QuoteLine",
    "Target",
    "Tier",
    "Variant",
    "load_price",
]
