"""The prices of a whole server in one file: tools, resources and prompts, apart from the code."""

from pathlib import Path
from typing import Any

from payre_mcp import PaidMCPServer

server = PaidMCPServer("office", pricing=Path(__file__).with_name("pricing.yaml"))


@server.tool()
def lookup(word: str) -> str:
    """Look a word up."""
    return f"{word}: see the dictionary"


@server.tool()
def opening_hours() -> str:
    """When the office is open."""
    return "9 to 5"


@server.tool()
def answer(question: str) -> dict[str, Any]:
    """Answer a question."""
    usage = {"prompt_tokens": 800, "completion_tokens": 2_000}
    return {"answer": f"{question} Yes.", "usage": usage}


@server.tool()
def convert(pages: int) -> dict[str, Any]:
    """Convert a document of so many pages."""
    return {"converted": {"pages": pages}}


@server.resource("report://{year}")
def report(year: str) -> str:
    """The report of a year."""
    return f"In {year} all was well."


@server.prompt()
def brief(topic: str) -> str:
    """Ask for a brief."""
    return f"Write a brief on {topic}."


if __name__ == "__main__":
    server.run()
