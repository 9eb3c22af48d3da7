"""YAML that is bad, hostile or merely unusual: always a clear error, never another exception and never a wrong price."""

from pathlib import Path

import pytest

from payre_mcp.errors import PriceSpecInvalid
from payre_mcp.money import Money
from payre_mcp.pricing import load_prices
from payre_mcp.pricing.document import DEEPEST, MOST_NODES, read_yaml
from payre_mcp.pricing.price_list import parse_prices
from tests.pricing.forms import file_message, file_problems, load_any, problems, refused, tool, written


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# only a comment\n", 1),
        ("---\n...\n", 2),
        ("null", 1),
        ("0.005", 1),
        ("[1, 2]", 1),
        ("- tools", 1),
        ("tools: {t: 1}\n---\ntools: {u: 2}\n", 2),
        ("tools: {t: 1}\n...\n---\n{}\n", 3),
        ("!x\ntools: {}\n", 1),
        ("%YAML 9.9\n---\ntools: {}\n", 1),
        ("tools: {t: 1\n", 2),
        ("tools:\n\tt: 1\n", 2),
        ("tools: 't\n", 2),
        ("tools: @\n", 1),
        ('tools: "\\uD800"\n', 1),
        ('tools: "\\x"\n', 1),
        ("a: 1\n b: 2\n", 2),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_line(text: str, line: int) -> None:
    assert file_problems(text) == [("yaml_syntax", "", line)]


@pytest.mark.parametrize(
    ("text", "path", "line", "word"),
    [
        ("tools:\n  t: !!float 0.1\n", "tools.t", 2, "tag"),
        ("tools:\n  t: !price 0.1\n", "tools.t", 2, "!price"),
        ("tools:\n  t: ! 0.1\n", "tools.t", 2, "tag"),
        ("tools: !!python/object/apply:os.system [ls]\n", "tools", 1, "tag"),
        ("tools:\n  !!str t: 0.1\n", "tools", 2, "key"),
        ("tools:\n  ? [t]\n  : 0.1\n", "tools", 2, "key"),
        ("x: &x t\ntools:\n  *x : 0.1\n", "tools", 3, "key"),
        ("tools:\n  <<: {t: 1}\n", "tools", 2, "merge"),
        ("x: &x {t: 1}\ntools:\n  <<: *x\n", "tools", 3, "merge"),
        ("tools:\n  t: *x\n", "tools.t", 2, "anchor"),
        ("tools: &x\n  t: *x\n", "tools.t", 2, "anchor"),
        ("tools: [&x [*x]]\n", "tools[0][0]", 1, "anchor"),
        ("tools: {&k t: 1,\nu: *k}\n", "tools.u", 2, "anchor"),
    ],
)
def test_what_goes_beyond_plain_data_is_refused_where_it_stands(text: str, path: str, line: int, word: str) -> None:
    assert ("yaml_syntax", path, line) in file_problems(text)
    assert word in file_message(text)


@pytest.mark.parametrize("text", ["\0", "tools: {t: \0}", "\x07", "\ud800", "tools: {t: '\udc80'}", "\ufffe"])
def test_characters_that_no_text_has_are_refused(text: str) -> None:
    assert [code for code, _, _ in file_problems(text)] == ["yaml_syntax"]


def test_a_quoted_merge_key_is_a_name_like_any_other() -> None:
    assert tool("tools: {'<<': 0.01}", "<<").ceiling() == Money(10_000)


def test_anchors_and_aliases_of_whole_values_are_fine() -> None:
    text = """\
tools:
  a: &price 0.01
  b: *price
  c: &entry {metering: {dimensions: &d [{unit: requests, price_usd: *price}]}}
  d: *entry
  e: {metering: {dimensions: *d}}
"""
    prices = parse_prices(text).prices
    assert len(prices) == 5
    assert {spec.ceiling() for spec in prices.values()} == {Money(10_000)}


def test_an_anchor_may_be_used_again_and_the_last_before_an_alias_holds() -> None:
    prices = parse_prices("tools: {a: &x 1, b: *x, c: &x 2, d: *x}").prices
    assert [spec.ceiling().micros for spec in prices.values()] == [10**6, 10**6, 2 * 10**6, 2 * 10**6]


def test_what_is_wrong_in_an_alias_has_the_line_of_the_alias() -> None:
    text = "tools:\n  a: &x {metering: {dimensions: [{unit: page, price_usd: 1}]}}\n  b: *x\n"
    path = "metering.dimensions[0].unit"
    assert file_problems(text) == [("unit_unknown", f"tools.a.{path}", 2), ("unit_unknown", f"tools.b.{path}", 3)]


@pytest.mark.parametrize("levels", [6, 9, 100])
def test_a_bomb_of_aliases_is_refused_at_once(levels: int) -> None:
    found = refused(lambda: parse_prices(bomb(levels)))
    assert [each.code for each in found] == ["yaml_syntax"]
    assert f"{MOST_NODES:,}" in found[0].message


def test_a_small_tree_of_aliases_is_no_bomb() -> None:
    assert read_yaml(bomb(4)).problems == []


def test_depth_that_is_put_together_from_aliases_is_refused_too() -> None:
    lines = ["a0: &a0 " + "[" * 12 + "]" * 12]
    lines += [f"a{at}: &a{at} " + "[" * 12 + f"*a{at - 1}" + "]" * 12 for at in range(1, 100)]
    assert refused(lambda: parse_prices("\n".join([*lines, "tools: *a99"])))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("[{a: ", "}]")])
@pytest.mark.parametrize("depth", [DEEPEST + 1, 1_000, 50_000])
def test_deep_nesting_is_refused(opening: str, closing: str, depth: int) -> None:
    assert [code for code, _, _ in file_problems(opening * depth + closing * depth)] == ["yaml_syntax"]
    assert [code for code, _, _ in file_problems(opening * depth)] == ["yaml_syntax"]


def test_deep_block_nesting_is_refused() -> None:
    text = "\n".join(" " * at + "a:" for at in range(1_000))
    assert [code for code, _, _ in file_problems(text)] == ["yaml_syntax"]
    assert [code for code, _, _ in file_problems("- " * 1_000)] == ["yaml_syntax"]


def test_a_key_that_stands_twice_is_told_with_both_lines() -> None:
    text = "tools:\n  a: 1\n  b: 2\n  a: 3\nprompts: {}\ntools: {}\n"
    assert file_problems(text) == [("duplicate_key", "tools.a", 4), ("duplicate_key", "tools", 6)]
    assert "lines 2 and 4" in file_message(text)


def test_keys_that_differ_in_quotes_alone_are_one_key() -> None:
    assert file_problems("tools: {a: 1, 'a': 2}") == [("duplicate_key", "tools.a", 1)]
    assert file_problems('tools: {1: 1, "1": 2}') == [("duplicate_key", "tools.1", 1)]
    assert len(parse_prices("tools: {1: 1, 1.0: 2, true: 3, yes: 4}").prices) == 4


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        "tools: {" + "a: 1, " * 2_000_000 + "}",
        "[" * 10_000_000,
        "tools:\n" + "".join(f"  t{at}: 0.01\n" for at in range(600_000)),
        "é" * 5_000_000,
    ],
    ids=["text", "keys", "brackets", "tools", "two bytes each"],
)
def test_a_file_of_ten_megabytes_is_refused_before_it_is_parsed(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    for read in (lambda: parse_prices(text), lambda: load_prices(path)):
        assert [each.code for each in refused(read)] == ["yaml_syntax"]


def test_a_file_of_many_tools_is_fine() -> None:
    assert len(parse_prices("tools:\n" + "".join(f"  t{at}: 0.01\n" for at in range(3_000))).prices) == 3_000


@pytest.mark.timeout(5)
def test_a_file_of_many_variants_is_read_in_time() -> None:
    first = "variants:\n- {param: a, value: x, dimensions: &d [{unit: requests, price_usd: 1}]}\n"
    text = first + "".join(f"- {{param: a, value: v{at}, dimensions: *d}}\n" for at in range(6_000))
    assert len(load_any(text).variants) == 6_001


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbftools:\r\n  t: 0.01\r\n")
    [spec] = load_prices(path).prices.values()
    assert spec.ceiling() == Money(10_000)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"tools: {t: \xe9}", b"\x80" * 100, bytes(range(256)), "tools: {t: 1}".encode("utf-16"), b"\xed\xa0\x80"],
)
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    assert [each.code for each in refused(lambda: load_prices(path))] == ["yaml_syntax"]


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, str(tmp_path / "none.yaml")):
        with pytest.raises(PriceSpecInvalid, match=r"yaml_syntax: cannot be read: ") as caught:
            load_prices(path)
        assert caught.value.source == str(path)


def test_an_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = written(tmp_path, "tools:\n  t:\n    metering:\n      dimensions:\n        - {unit: page, price_usd: 1}\n")
    with pytest.raises(PriceSpecInvalid) as caught:
        load_prices(path)
    place = "pricing.yaml:5 tools.t.metering.dimensions[0].unit"
    assert str(caught.value) == f"{place}: unit_unknown: no unit 'page' (did you mean 'pages'?)"


def test_a_document_knows_the_line_of_everything_in_it() -> None:
    document = read_yaml("a:\n  - b: 1\n    c:\n      d: 2\n")
    assert document.data == {"a": [{"b": "1", "c": {"d": "2"}}]}
    assert [document.line(path) for path in ("a", "a[0]", "a[0].b", "a[0].c.d", "a[0].c.x", "a[7].z", "z", "")] == [
        1,
        2,
        2,
        4,
        3,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "a: *x", "", "x: !!str y", "a:\n\t- b"])
def test_a_price_in_yaml_text_is_refused_like_a_file(text: str) -> None:
    found = problems(text + "\n")
    assert found[0][0] in {"yaml_syntax", "duplicate_key", "unknown_key", "entry_invalid", "price_syntax"}
