"""The README is true: its snippets are the examples, its tables the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup as Group
from typer.main import get_group

from payre_mcp.cli.app import app
from payre_mcp.errors import PayreError
from payre_mcp.money import Money
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


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without what a table begins with."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [re.split(r" ?\| ?", line)[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if cells[0].startswith("`")]


def test_every_setting_is_explained_and_nothing_else() -> None:
    assert sorted(cells[0] for cells in rows("Settings")) == sorted(f"`{PREFIX}{name.upper()}`" for name in Settings.model_fields)


PLAIN = [name for name, field in Settings.model_fields.items() if isinstance(field.default, int | Money)]
"""Settings whose default is an amount or a number."""


@pytest.mark.parametrize("name", PLAIN)
def test_a_default_that_is_a_number_is_told_as_it_is(name: str) -> None:
    (told,) = [cells[2] for cells in rows("Settings") if cells[0] == f"`{PREFIX}{name.upper()}`"]
    default = Settings.model_fields[name].default
    assert Money.parse(told) == default if isinstance(default, Money) else told.strip("`") == str(default).lower()


ABSTRACT = {"key_rejected"}
"""A family that is never raised itself."""


def test_every_error_code_is_explained_and_nothing_else() -> None:
    told = [code for cells in rows("Errors") for code in re.findall("`([a-z_]+)`", cells[0])]
    assert sorted(told) == sorted({error.code for error in family(PayreError)} - ABSTRACT)


def commands(group: Group, above: str = "payre") -> list[str]:
    """Every command that can be run, in full."""
    found = [(f"{above} {name}", command) for name, command in group.commands.items()]
    return [each for name, it in found for each in (commands(it, name) if isinstance(it, Group) else [name])]


def told(cell: str) -> Iterator[str]:
    """The commands of a cell: `payre keys create NAME`, `list` are two of one group."""
    group = ""
    for text in re.findall("`([^`]+)`", cell):
        words = [word for word in text.split() if re.fullmatch("[a-z-]+", word) and not word.startswith("-")]
        group = " ".join(words[:-1]) if words[0] == "payre" else group
        yield f"{group} {words[-1]}"


def test_every_command_is_listed_and_nothing_else() -> None:
    listed = [command for cells in rows("Command line") for command in told(cells[0])]
    assert sorted(listed) == sorted(commands(get_group(app)))


@pytest.mark.parametrize("name", [name for name in vars(WalletTools) if not name.startswith("_")])
def test_every_wallet_tool_is_listed(name: str) -> None:
    assert f"| `{name}` |" in README
