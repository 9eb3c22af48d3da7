"""What a call costs. Pure: no I/O but reading a price file, no clock, integers and exact fractions only.

`load_price` reads any form of a price into a `PriceSpec`, `load_prices` a whole file; the spec quotes a call and states its
ceiling.
"""

from payre_mcp.pricing.dimensions import Condition, Dimension, FreeQuota, Meter, Split, Target, Tier, Variant
from payre_mcp.pricing.load import Price, PriceSource, load_price
from payre_mcp.pricing.plan import Plan, QuoteLine, Usage
from payre_mcp.pricing.price_list import PriceList, load_prices
from payre_mcp.pricing.quote import Quote
from payre_mcp.pricing.spec import PriceSpec

__all__ = [
    "Condition",
    "Dimension",
    "FreeQuota",
    "Meter",
    "Plan",
    "Price",
    "PriceList",
    "PriceSource",
    "PriceSpec",
    "Quote",
    "QuoteLine",
    "Split",
    "Target",
    "Tier",
    "Usage",
    "Variant",
    "load_price",
    "load_prices",
]
