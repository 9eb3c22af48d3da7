"""Charging by hand: the tool computes its amount itself, and stays within a published price."""

from mcp.server.mcpserver import Context

from payre_mcp import Money, PaidMCPServer, Payre

payre = Payre()
payre.pricing({"render": "0.05"}, by_hand=True)
server = PaidMCPServer("studio", payre=payre)


@server.tool()
async def render(frames: int, ctx: Context) -> str:
    """Render some frames; a frame costs a tenth of a cent."""
    await payre.charge(payre.key_of(ctx), "render", Money(1_000 * frames))
    return f"{frames} frames"


if __name__ == "__main__":
    server.run()
