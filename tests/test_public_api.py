"""What a program may import and read, pinned."""

import pytest

import payre_mcp
from payre_mcp.server import wire


def test_the_public_names_are_exactly_these() -> None:
    assert payre_mcp.__all__ == [
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


@pytest.mark.parametrize("name", payre_mcp.__all__)
def test_a_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(payre_mcp, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PaidServer'"):
        _ = payre_mcp.PaidServer  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]


def test_the_names_in_meta_are_exactly_these() -> None:
    names = {name: value for name, value in vars(wire).items() if isinstance(value, str) and value.startswith("dev.payre/")}
    assert names == {
        "PRICE": "dev.payre/price",
        "RECEIPT": "dev.payre/receipt",
        "RECEIPTS": "dev.payre/receipts",
        "PAYMENT_REQUIRED": "dev.payre/payment-required",
        "IDEMPOTENCY_KEY": "dev.payre/idempotency-key",
        "MAX_PRICE": "dev.payre/max-price",
        "REPLAYED": "dev.payre/replayed",
        "SETTLEMENT": "dev.payre/settlement",
    }
