"""The payments layer for MCP servers: prices, a prepaid balance, exact charges, signed receipts.

Names are loaded when they are first used, so that `import payre_mcp` costs next to nothing and a program pays only for
the side that it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from payre_mcp.connection import connect
    from payre_mcp.errors import PayreError
    from payre_mcp.money import Money
    from payre_mcp.pricing import Price, Usage
    from payre_mcp.receipts import KeyRing, Receipt, verify_receipt
    from payre_mcp.server.calls import current_call, observe, report_usage
    from payre_mcp.server.extension import Payre
    from payre_mcp.server.paid_server import PaidMCPServer, prompt, resource, tool
    from payre_mcp.serving import serve

_HOME = {
    "KeyRing": "receipts",
    "Money": "money",
    "PaidMCPServer": "server.paid_server",
    "Payre": "server.extension",
    "PayreError": "errors",
    "Price": "pricing",
    "Receipt": "receipts",
    "Usage": "pricing",
    "connect": "connection",
    "current_call": "server.calls",
    "observe": "server.calls",
    "prompt": "server.paid_server",
    "report_usage": "server.calls",
    "resource": "server.paid_server",
    "serve": "serving",
    "tool": "server.paid_server",
    "verify_receipt": "receipts",
}

__all__ = [
    "KeyRing",
    "Money",
    "PaidMCPServer",
    "Payre",
    "PayreError",
    "Price",
    "Receipt",
    "Usage",
    "connect",
    "current_call",
    "observe",
    "prompt",
    "report_usage",
    "resource",
    "serve",
    "tool",
    "verify_receipt",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'payre_mcp' has no attribute {name!r}")
    return getattr(import_module(f"payre_mcp.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
