"""`payre pricing check`, `quote` and `schema`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from payre_mcp.cli.app import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "pricing.yaml"


def payre(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["pricing", *arguments])


def quoted(*arguments: str) -> Result:
    return payre("quote", str(EXAMPLE), *arguments)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text("tools:\n  search: 1e-7\n  paint:\n    metring: {}\n")
    return path


def test_a_good_file_is_listed_with_what_everything_costs() -> None:
    result = payre("check", str(EXAMPLE))
    assert result.exit_code == 0
    assert "tool      lookup           Costs $0.004 per call." in result.stdout
    assert "resource  report://{year}  Costs $0.02 per call." in result.stdout
    assert "6 prices, all valid; anything else is free" in result.stdout


def test_a_good_file_in_json_is_the_cards_of_its_prices() -> None:
    result = payre("check", str(EXAMPLE), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["valid"], document["problems"]) == (0, True, [])
    lookup = document["prices"][0]
    assert (lookup["kind"], lookup["name"], lookup["max_micros"]) == ("tool", "lookup", 4_000)


def test_everything_wrong_with_a_file_is_told_with_its_lines(wrong: Path) -> None:
    result = payre("check", str(wrong))
    first, second, third, last = result.stdout.splitlines()
    assert result.exit_code == 1
    assert first.startswith("wrong.yaml:2 tools.search: price_inexact: ")
    assert second.startswith("wrong.yaml:3 tools.paint: entry_invalid: ")
    assert third.startswith("wrong.yaml:4 tools.paint.metring: unknown_key: unknown key 'metring' (did you mean 'metering'?)")
    assert last.endswith("3 problems")


def test_everything_wrong_with_a_file_is_data_for_a_program(wrong: Path) -> None:
    result = payre("check", str(wrong), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["valid"]) == (1, False)
    assert [(each["code"], each["line"]) for each in document["problems"]] == [
        ("price_inexact", 2),
        ("entry_invalid", 3),
        ("unknown_key", 4),
    ]


def test_what_may_surprise_is_told_beside_the_data(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("name: shop\nendpoints:\n  - {path: v1/pages, metering: {dimensions: [{unit: pages, price_usd: 1}]}}\n")
    result = payre("check", str(path))
    assert result.exit_code == 0
    assert "prices.yaml:1 name: ignored_field" in result.stderr
    assert "prices.yaml:3 endpoints[0].metering: ceiling_defaulted" in result.stderr
    assert [each["code"] for each in json.loads(payre("check", str(path), "--json").stdout)["warnings"]] == [
        "ignored_field",
        "ceiling_defaulted",
    ]


def test_a_file_that_is_not_there_is_an_error() -> None:
    result = payre("check", "nowhere.yaml")
    assert result.exit_code == 1
    assert "cannot be read" in result.stdout


def test_a_call_is_priced_line_by_line() -> None:
    result = quoted("--tool", "answer", "--usage", "input.tokens=800", "--usage", "output.tokens=2_000")
    assert result.exit_code == 1
    result = quoted("--tool", "answer", "--usage", "input.tokens=800", "--usage", "output.tokens=2000")
    assert result.stdout.splitlines() == [
        "800 input tokens at $0.40 per 1,000,000: $0.00032",
        "2,000 output tokens at $1.60 per 1,000,000: $0.0032",
        "Total: $0.00352",
        "Held before the run: $0.0304",
    ]


def test_a_call_in_json_is_exact() -> None:
    result = quoted("--tool", "answer", "--usage", "input.tokens=1", "--usage", "output.tokens=999999", "--json")
    document = json.loads(result.stdout)
    assert (document["total_micros"], document["ceiling_micros"]) == (30_400, 30_400)
    assert document["shortfall_micros"] == 1_569_599
    assert [(line["unit"], line["quantity"], line["cost_micros"]) for line in document["lines"]] == [
        ("tokens", "1", "2/5"),
        ("tokens", "999999", "7999992/5"),
    ]


def test_without_usage_the_quote_is_the_most_that_the_call_can_cost() -> None:
    assert "At most: $0.0304" in quoted("--tool", "answer").stdout
    assert quoted("--prompt", "brief").stdout.splitlines() == ["1 call at $0.001: $0.001", "At most: $0.001"]
    assert "At most: $0.02" in quoted("--resource", "report://{year}").stdout


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("tools: {count: {metering: {dimensions: [{unit: characters, price_usd: 0.001}]}}}\n")
    before = payre("quote", str(path), "--tool", "count")
    assert "Not known before the run: characters. Say it with --usage" in before.stdout
    known = payre("quote", str(path), "--tool", "count", "--arguments", '{"text": "abc"}')
    assert "3 characters at $0.001: $0.003" in known.stdout
    missing = quoted("--tool", "answer", "--usage", "input.tokens=800")
    assert "No number for output.tokens: the price's missing_usage is min" in missing.stdout
    assert "Total: $0.001" in missing.stdout


def test_what_was_used_before_moves_the_price(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "tools: {locate: {metering: {dimensions: [{unit: requests, tiers: [{up_to: 10, price_usd: 1}, {price_usd: 0.5}]}]}}}\n"
    )
    assert "At most: $1.00" in payre("quote", str(path), "--tool", "locate", "--used-before", "requests=9").stdout
    assert "At most: $0.50" in payre("quote", str(path), "--tool", "locate", "--used-before", "requests=10").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--tool", "nothing"], 1, "has no price for the tool 'nothing': it is free (not_found)"),
        (["--tool", "lookup", "--arguments", "{"], 1, "--arguments is not JSON"),
        (["--tool", "lookup", "--arguments", "[]"], 1, "--arguments is a JSON object"),
        (["--tool", "answer", "--usage", "tokens"], 1, "--usage is written as unit=number"),
        (["--tool", "answer", "--usage", "pages=1", "--usage", "pages=2"], 1, "--usage gives 'pages' twice"),
        (["--tool", "answer", "--usage", "tokens=1"], 1, "usage_ambiguous"),
        (["--tool", "answer", "--usage", "token=1"], 1, "usage_invalid"),
        (["--tool", "answer", "--used-before", "input.tokens=-1"], 1, "usage_invalid"),
        ([], 2, "name one of --tool, --resource, --prompt"),
        (["--tool", "lookup", "--prompt", "brief"], 2, "name one of --tool"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(arguments: list[str], code: int, told: str) -> None:
    result = quoted(*arguments)
    assert result.exit_code == code
    assert told in " ".join(result.stderr.replace("│", "").split())


def test_the_schema_is_printed_for_editors() -> None:
    schema = json.loads(payre("schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["$defs"]["file"]["properties"]) >= {"tools", "resources", "prompts", "default"}
