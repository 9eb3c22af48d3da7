"""A metered charge in the wallet says what it adds up from."""

from mcp import Client

from payre_mcp import PaidMCPServer, Payre, Price, report_usage
from payre_mcp.testing import Sandbox
from tests.server.conftest import facts_of, text_of


def convert(pages: int, quality: str = "draft") -> str:
    report_usage("pages", pages)
    report_usage("seconds", "1.5", "output")
    return quality


async def test_a_charge_says_line_by_line_what_was_paid_for(box: Sandbox, wallet: Client) -> None:
    draft = {
        "dimensions": [
            {"unit": "pages", "price_usd": "0.01", "max_units": 30},
            {"unit": "minutes", "price_usd": "0.06", "max_units": 1},
            {"unit": "seconds", "direction": "output", "price_usd": "0.001", "max_units": 9},
        ]
    }
    price = Price.variants("quality", {"draft": draft}, free_quota={"amount": 10, "unit": "pages"})
    server = PaidMCPServer("office", payre=Payre(gateway=box.ledger.gateway, prices={"convert": price}))
    server.tool()(convert)
    async with Client(server) as client:
        await client.call_tool("convert", {"pages": 25}, meta={"dev.payre/key": box.consumer_key})
    (listed,) = facts_of(await wallet.call_tool("list_charges", {}))["charges"]
    charge = await wallet.call_tool("get_charge", {"charge_id": listed["charge_id"]})
    facts = facts_of(charge)
    assert facts == listed
    assert facts["variant"] == "quality=draft"
    free, pages, minutes, seconds = facts["lines"]
    assert (free, pages) == ("10 pages: $0.00", "15 pages: $0.15")
    assert minutes.split(":")[0].endswith(" milliseconds")
    assert seconds == "1,500 output milliseconds: $0.0015"
    for line in facts["lines"]:
        assert line in text_of(charge)
