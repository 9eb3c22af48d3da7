"""The README is true: its snippets are the examples, its tables the code."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from payre_mcp.cli.app import app
from payre_mcp.errors import PayreError
from payre_mcp.settings import PREFIX, Settings
from payre_mcp.wallet.tools import WalletTools

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"<!-- (examples/\S+) -->\n```(?:python|yaml)\n(.*?)\n```", README, re.DOTALL)


def family(error: type[PayreError]) -> list[type[PayreError]]:
    return [error, *(each for child in error.__subclasses__() for each in family(child))]


def test_every_snippet_is_a_whole_example() -> None:
    assert len(SNIPPETS) == README.count("```python") + README.count("```yaml")
    for name, snippet in SNIPPETS:
        assert snippet == (ROOT / name).read_text().rstrip(), name


def test_every_example_is_shown() -> None:
    assert {name for name, _ in SNIPPETS} == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.*")}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_explained(name: str) -> None:
    assert f"| `{PREFIX}{name.upper()}` |" in README


ABSTRACT = {"key_rejected"}
"""A family that is never raised itself."""


@pytest.mark.parametrize("code", sorted({error.code for error in family(PayreError)} - ABSTRACT))
def test_every_error_code_is_explained(code: str) -> None:
    assert f"`{code}`" in README.partition("## Errors")[2].partition("\n## ")[0]


def test_every_command_is_listed() -> None:
    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    for name in commands:  # pyright: ignore[reportUnknownVariableType]
        assert f"`payre {name}" in README, name


@pytest.mark.parametrize("name", [name for name in vars(WalletTools) if not name.startswith("_")])
def test_every_wallet_tool_is_listed(name: str) -> None:
    assert f"| `{name}` |" in README
