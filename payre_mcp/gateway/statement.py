"""Journal rows as their readers see them: charges, receipts. A receipt is a pure function of its row and the key ring."""

import json
from collections.abc import Mapping
from typing import Any

from payre_mcp.clock import US_PER_S
from payre_mcp.gateway.base import ChargeView
from payre_mcp.ids import format_id
from payre_mcp.ledger.metering import charged_for
from payre_mcp.ledger.model import Transfer
from payre_mcp.money import Money
from payre_mcp.pricing.describe import charge_line
from payre_mcp.receipts import KeyRing, Receipt


def origin_of(server: str) -> str:
    """How the details of a server's charges begin, up to the kind of the target."""
    return json.dumps({"server": server, "kind": ""}, separators=(",", ":")).removesuffix('"}')


class Statements:
    """Signs receipts for one ledger."""

    def __init__(self, issuer: str, mode: str, ring: KeyRing) -> None:
        self._issuer, self._mode, self._ring = issuer, mode, ring

    @staticmethod
    def charge_id(row: Transfer) -> str:
        """The public id of a charge."""
        return format_id("chg", row.id)

    def receipt(self, row: Transfer) -> str:
        """The signed receipt of a charge."""
        detail: Mapping[str, Any] = json.loads(row.detail)
        return self._ring.sign(
            Receipt(
                charge_id=self.charge_id(row),
                issuer=self._issuer,
                consumer=format_id("con", row.consumer_id),
                developer=format_id("dev", row.developer_id),
                issued_at=row.created_at // US_PER_S,
                mode=self._mode,
                name=row.tool,
                amount_micros=row.amount_micros,
                fee_micros=row.fee_micros,
                credit_micros=row.credit_spent_micros or None,
                **detail,
            )
        )

    def verify(self, token: str) -> Receipt:
        """What a receipt of this ledger says. Raises `ReceiptInvalid`."""
        return self._ring.verify(token)

    def charge(self, row: Transfer) -> ChargeView:
        """A charge for its consumer."""
        detail = json.loads(row.detail)
        return ChargeView(
            id=self.charge_id(row),
            server=detail["server"],
            kind=detail["kind"],
            name=row.tool,
            amount=Money(row.amount_micros),
            created_at=row.created_at,
            receipt=self.receipt(row),
            variant=detail.get("variant", ""),
            lines=tuple(charge_line(*line) for line in charged_for(row.terms)),
        )
