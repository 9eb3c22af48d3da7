"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "payre_mcp"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 50

LAZY_DOORS = {
    "payre_mcp/connection.py": "storage, so that a seller with a remote ledger never loads SQL",
    "payre_mcp/server/extension.py": "FastMCP, which only its own servers need",
    "payre_mcp/storage/migrate.py": "Alembic, which almost every start does without",
    "payre_mcp/storage/engine.py": "psycopg, an extra: only who has a PostgreSQL has it",
    "payre_mcp/storage/readers.py": "psycopg, as above",
    "payre_mcp/cli/db.py": "psycopg, as above",
    "payre_mcp/cli/command.py": "what only a failing command needs, so that help is quick",
    "payre_mcp/billing/opening.py": "Stripe's package, which takes half a second: only who has its key waits for it",
    "payre_mcp/dev/app.py": "the same, which a sandbox does without",
}
"""The only files with imports inside functions, and what each puts off."""

LISTS = {"payre_mcp/storage/migrations/versions/v0001_first_ledger.py": "tables one after another; cutting the list hides it"}
"""Files with functions that are longer than the rule, and why."""


LONG_FILES = {"payre_mcp/errors.py": "one tree, which nobody reads but as one: its root finds every code"}
"""Files that are longer than the rule, and why."""


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The length of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_holds_one_noun(path: Path) -> None:
    length = len(path.read_text().splitlines())
    assert length <= LONGEST_FILE or place(path) in LONG_FILES, (
        f"{place(path)} has {length} lines: which second noun does it hold?"
    )


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_function_is_read_without_scrolling(path: Path) -> None:
    long = {
        function.name: lines_of_code(function)
        for function in functions(ast.parse(path.read_text()))
        if lines_of_code(function) > LONGEST_FUNCTION
    }
    assert not long or place(path) in LISTS


def test_imports_stand_at_the_top_save_behind_the_lazy_doors() -> None:
    inside = {
        place(path)
        for path in FILES
        for function in functions(ast.parse(path.read_text()))
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert inside == set(LAZY_DOORS)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import payre_mcp", {"mcp", "pydantic", "sqlmodel", "sqlalchemy", "alembic", "stripe", "jinja2", "uvicorn"}),
        ("import payre_mcp.cli.app", {"mcp", "pydantic", "sqlmodel", "sqlalchemy", "alembic", "stripe", "jinja2"}),
        ("from payre_mcp import PaidMCPServer, Payre, tool", {"sqlmodel", "sqlalchemy", "alembic", "stripe", "jinja2"}),
        ("import payre_mcp.wallet.server", {"sqlmodel", "sqlalchemy", "alembic", "stripe", "jinja2"}),
        ("import payre_mcp.cli.hub, payre_mcp.cli.stripe, payre_mcp.cli.doctor, payre_mcp.testing", {"stripe"}),
    ],
)
def test_an_import_loads_no_more_than_its_side_needs(statement: str, unwanted: set[str]) -> None:
    program = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert not unwanted & set(loaded.split())


def test_no_file_names_a_package_registry_or_a_place_on_a_machine() -> None:
    names = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    words = ("pypi" + r"\.org", "npm" + "js", "/" + "root/", "/" + r"home/\w+/", "[sr]k" + r"_live_\w{8}")
    secret = re.compile("|".join(words))
    found = [name for name in names if (path := ROOT / name).is_file() and secret.search(path.read_text(errors="ignore"))]
    assert not found


def test_assertions_are_on() -> None:
    assert __debug__, "invariants of money are assertions: never run with -O"
