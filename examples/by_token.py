"""A price by tokens, in and out: the tool reports what it used, and the caller pays for that alone."""

from payre_mcp import PaidMCPServer, Price, report_usage

server = PaidMCPServer("writer")

PER_MILLION = Price.per(
    "tokens",
    1_000_000,
    input="0.50",
    output="1.50",
    max_units={"input": 4_000, "output": 1_000},
)


@server.tool(price=PER_MILLION)
async def summarize(text: str) -> str:
    """Summarize a text."""
    report_usage("tokens", len(text.split()), direction="input")
    summary = " ".join(text.split()[:3])
    report_usage("tokens", len(summary.split()), direction="output")
    return summary


if __name__ == "__main__":
    server.run()
