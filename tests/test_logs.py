"""Logs: our own choice; reliability.md T13. What real servers write stands in server/test_secrets.py."""

import io
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from payre_mcp.keys import ApiKey, Mode, Role, new_key, parse_key
from payre_mcp.logs import HIDDEN, JsonFormatter, RedactingFilter, redact, redact_handlers
from payre_mcp.receipts import KeyRing
from tests.fakes import ROOT

quick = settings(max_examples=100, deadline=None)

KEY = parse_key("pyr_ck_test_Zq7Xk2Vm9Tb4Ld8Rf3Hn6Jw1Gy5Pc0Sa4TF2cV")
BODY = KEY.text.removeprefix("pyr_ck_test_")


class Log:
    """A logger of a test's own, with one handler that is redacted and one that is not."""

    def __init__(self, formatter: logging.Formatter | None = None) -> None:
        self.logger = logging.Logger("shop", logging.DEBUG)  # noqa: LOG001 - outside the tree of loggers
        self._out, self._others = io.StringIO(), io.StringIO()
        ours, theirs = logging.StreamHandler(self._out), logging.StreamHandler(self._others)
        ours.setFormatter(formatter or logging.Formatter("%(levelname)s %(message)s"))
        ours.addFilter(RedactingFilter(ours))
        self.records: list[logging.LogRecord] = []
        theirs.addFilter(lambda record: self.records.append(record) or True)
        # Ours comes first: the other must see what it would have seen without ours.
        self.logger.handlers = [ours, theirs]

    @property
    def text(self) -> str:
        return self._out.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def others(self) -> str:
        return self._others.getvalue()


# Texts.

keys = st.sampled_from([KEY, *(new_key(role, mode) for role in Role for mode in Mode)])
noise = st.text(max_size=30) | st.sampled_from(
    ["pyr_ck_", "Bearer ", 'Authorization: "', "X-Payre-Key='", "\\", "pyr_ck_test_...", "="]
)


@quick
@given(keys, noise, noise)
def test_no_key_survives_in_any_text(key: ApiKey, before: str, after: str) -> None:
    clean = redact(before + key.text + after)
    assert key.text[12:-4] not in clean
    assert redact(clean) == clean


@quick
@given(st.integers(12, len(KEY.text) - 1), st.characters(exclude_characters="'\"\\", exclude_categories=("Z", "C")))
def test_no_damaged_or_cut_key_survives(at: int, other: str) -> None:
    """Something else where a character was, its end missing, or spelt in another way: still most of a secret."""
    assume(other != KEY.text[at])
    assert redact(f"got {KEY.text[:at]}{other}{KEY.text[at + 1 :]} today") == "got pyr_ck_test_... today"
    assert redact(f"got {KEY.text[: at + 1]}") == f"got {KEY.shown if at == len(KEY.text) - 1 else 'pyr_ck_test_...'}"
    assert redact(f"got {KEY.text}{other} today") in {"got pyr_ck_test_... today", f"got {KEY.shown}{other} today"}
    assert redact(KEY.text.upper()) == "PYR_CK_TEST_..."
    assert redact(KEY.text.replace("_", "-")) == "pyr-ck-test-..."


@quick
@given(st.text(alphabet=st.characters(exclude_characters="pPkK:-_="), max_size=200))
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "This is not a Payre key; one starts with pyr_ck_ and is 50 characters long.",
        "Make one with payre keys create, then set PAYRE_KEY and restart the client.",
        f"revoked {KEY.shown}, made {KEY.shown}.",
        '127.0.0.1:40164 - "POST /mcp HTTP/1.1" 200',
        "the ledger is sqlite:///payre.db, its receipt keys stand in payre.keys",
        "the secret of a webhook starts with whsec_, Stripe's API key with sk_test_ or sk_" + "live_",
        "set PAYRE_SECRET_KEYS or the_secret_garden; post_data=1 and body=2 stay",
        "task_test_something_long_1 finished",
        "charge chg_01J8ZK at 2026-05-02T12:00:00Z for 0.005",
    ],
)
def test_what_our_own_messages_say_is_left_whole(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"key {KEY.text}, and", f"key {KEY.shown}, and"),
        (f"?key={KEY.text}&x=1", f"?key={KEY.shown}&x=1"),
        (f"Authorization: Bearer {KEY.text}", f"Authorization: Bearer {KEY.shown}"),
        ("authorization: Basic Zm9vOmJhcg== next", f"authorization: {HIDDEN} next"),
        ("{'X-Payre-Key': 'my secret', 'a': 1}", f"{{'X-Payre-Key': '{HIDDEN}', 'a': 1}}"),
        ("[(b'x-payre-key', b'one'), (b'host', b'x')]", f"[(b'x-payre-key', b'{HIDDEN}'), (b'host', b'x')]"),
        (r"{\"dev.payre/key\":\"a\",\"b\":2}", rf"{{\"dev.payre/key\":\"{HIDDEN}\",\"b\":2}}"),
        ('{"X-AGENTPAY-API-KEY":"a \\" b","c":1}', f'{{"X-AGENTPAY-API-KEY":"{HIDDEN}","c":1}}'),
        ("'X-Payre-Key': 'cut off her", f"'X-Payre-Key': {HIDDEN}"),
        ("PAYRE_RECEIPT_KEYS=k1:abc", f"PAYRE_RECEIPT_KEYS={HIDDEN}"),
        ("GET /top-ups/ab_C-1 HTTP/1.1", "GET /top-ups/... HTTP/1.1"),
        ("to=%2Ftop-ups%2Fab_C-1&x", "to=%2Ftop-ups%2F...&x"),
        ("sk_" + "live_51Habcdefghijk", "sk_" + "live_..."),
        ("rk_" + "live_51Habcdefghijk, rk_test_51Habcdefghijk", "rk_" + "live_..., rk_test_..."),
        ("{'secret': 'whsec_a1B2c3+/=='}", "{'secret': 'whsec_...'}"),
        ("?client=pi_3MtwBw_secret_YrKJUKrib&x=1", "?client=pi_3MtwBw_secret_...&x=1"),
        ("cs_test_a1b2_secret_fidwbEhqYWAn", "cs_test_a1b2_secret_..."),
        ('{"client_secret": "abc", "id": 1}', f'{{"client_secret": "{HIDDEN}", "id": 1}}'),
        ("PAYRE_STRIPE_API_KEY=abc", f"PAYRE_STRIPE_API_KEY={HIDDEN}"),
        ("PAYRE_STRIPE_WEBHOOK_SECRET='a b'", f"PAYRE_STRIPE_WEBHOOK_SECRET='{HIDDEN}'"),
        (
            "DEBUG body='{\\n \"email\": \"ada@example.com\"}' message='API response body'",
            f"DEBUG body={HIDDEN} message='API response body'",
        ),
        (
            "api_version=x message='Post details' post_data=contact_email=ada%40example.com&name=Ada",
            f"api_version=x message='Post details' post_data={HIDDEN}",
        ),
        ('input_value=\'{"a":1,...k_test_abc"}\', input_type=str]', f"input_value={HIDDEN}, input_type=str]"),
        ("input_value=7, input_type=int]", "input_value=7, input_type=int]"),
    ],
)
def test_of_a_secret_only_what_is_fit_to_be_shown_stays(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


def test_receipt_keys_are_taken_out_and_their_ids_stay() -> None:
    ring = KeyRing.generate().rotated()
    clean = redact(f"ring {ring.dump()}")
    assert [entry.split(":")[1] for entry in clean.split()[1:]] == ["...", "..."]
    assert all(entry.split(":")[0] in repr(ring) for entry in clean.split()[1:])


@pytest.mark.parametrize(
    "worst",
    [
        "authorization:",
        "authorization:'",
        "pyr_ck_",
        "pyr_ck_test_...",
        "\\",
        "a:",
        "input_value=...",
        "whsec_",
        "pi_x_secret_",
        "payre_stripe_",
        " message='API response body'",
        "body=body= message='API response body'",
        "message='Post details' post_data=",
    ],
)
def test_a_hostile_text_takes_no_longer_than_its_length(worst: str) -> None:
    """Linear, or this would run into the suite's time limit many times over."""
    redact(worst * 100_000)


# Records.


class Naughty:
    """Prints its secret one way only."""

    def __init__(self, text: str, fails: bool = False) -> None:
        self._text, self._fails = text, fails

    def __str__(self) -> str:
        if self._fails:
            raise ValueError(self._text)
        return self._text

    def __repr__(self) -> str:
        return self._text if self._fails else "Naughty()"


secrets = st.sampled_from([KEY.text, f"Bearer {KEY.text}", KEY.text[:-1], f"http://x/?k={KEY.text}"])
leaves = (
    secrets | secrets.map(str.encode) | secrets.map(ValueError) | st.integers() | st.none() | st.floats() | secrets.map(Naughty)
)
nested = st.recursive(
    leaves | st.builds(Naughty, secrets, st.just(True)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5) | secrets, inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("form", [logging.Formatter("%(levelname)s %(message)s"), JsonFormatter()], ids=["text", "json"])
@quick
@given(nested, nested, st.sampled_from(["%s", "%s %s", "%r and %r", "%d", "%(a)s", "nothing", "%", f"{KEY.text} %s %r"]))
def test_no_key_survives_in_any_argument_or_field(form: logging.Formatter, first: Any, second: Any, message: str) -> None:
    log, failures = Log(form), io.StringIO()
    handler = log.logger.handlers[0]
    vars(handler)["handleError"] = lambda record: failures.write(traceback.format_exc())  # pyright: ignore[reportUnknownLambdaType]
    log.logger.handlers = [handler]
    log.logger.warning(message, first, second, extra={"given": first, "more": {"x": [second]}})
    log.logger.warning(first)
    assert BODY[:-4] not in log.text
    assert failures.getvalue() == ""
    assert len(log.text.splitlines()) >= 2


def test_exceptions_their_causes_and_notes_hold_no_key() -> None:
    for form in (None, JsonFormatter()):
        log = Log(form)
        try:
            try:
                raise KeyError(KEY.text)
            except KeyError as cause:
                error = RuntimeError(f"refused {KEY.text}")
                error.add_note(f"sent {KEY.text}")
                raise error from cause
        except RuntimeError:
            log.logger.exception("failed", stack_info=True)
        assert BODY[:-4] not in log.text
        assert log.text.count(KEY.shown) == 3
        assert "RuntimeError" in log.text
        assert "Stack (most recent call last)" in log.text


def test_a_secret_that_only_message_and_arguments_make_up_is_taken_out() -> None:
    log = Log()
    log.logger.info("pyr_ck_test_%s", BODY)
    log.logger.info("%s%s", KEY.text[:30], KEY.text[30:])
    log.logger.info("Authorization: %s", "abc")
    assert log.text == f"INFO {KEY.shown}\nINFO {KEY.shown}\nINFO Authorization: {HIDDEN}\n"


def test_arguments_that_do_not_fit_are_told_without_their_secret() -> None:
    """The standard library would print them raw, in a traceback."""
    log = Log()
    log.logger.handlers = log.logger.handlers[:1]
    log.logger.info("%d", KEY.text)
    assert log.text == f"INFO %d ('{KEY.shown}',)\n"


def test_arguments_keep_their_form_for_formatters_that_read_them() -> None:
    """uvicorn's formatter of access logs unpacks five."""
    log = Log()
    seen: list[object] = []
    log.logger.handlers[0].addFilter(lambda record: seen.append(record.args) or True)
    log.logger.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/top-ups/secret", "1.1", 200)
    assert seen == [("127.0.0.1:1", "GET", "/top-ups/...", "1.1", 200)]
    assert "/top-ups/... HTTP/1.1" in log.text


def test_fields_that_are_secret_by_name_are_hidden_whatever_they_hold() -> None:
    log = Log(JsonFormatter())
    headers = {"Authorization": "Basic abc", "x-payre-key": KEY.text, "X-Payre-Key": None, "host": "shop"}
    log.logger.info("asked", extra={"headers": headers, "authorization": "abc", "payre_key": "abc", "tool": "forecast"})
    (line,) = log.lines
    shown = {"Authorization": HIDDEN, "x-payre-key": KEY.shown, "X-Payre-Key": None, "host": "shop"}
    assert (line["headers"], line["authorization"], line["payre_key"], line["tool"]) == (shown, HIDDEN, HIDDEN, "forecast")


def test_the_handlers_of_others_see_the_record_as_it_was() -> None:
    log = Log()
    field = {"key": [KEY.text]}
    try:
        raise ValueError(KEY.text)
    except ValueError as error:
        log.logger.exception("%s", KEY.text, extra={"field": field})
        raised = error
    (record,) = log.records
    assert record.exc_info is not None
    assert record.exc_info[1] is raised
    assert (record.msg, record.args, vars(record)["field"]) == ("%s", (KEY.text,), field)
    assert field == {"key": [KEY.text]}
    assert log.others.count(KEY.text) == 2


def test_a_record_without_secrets_passes_as_it_is() -> None:
    log = Log()
    seen: list[logging.LogRecord] = []
    log.logger.handlers[0].addFilter(lambda record: seen.append(record) or True)
    log.logger.info("%s is %s", "forecast", ["paid"], extra={"price": 5_000})
    assert seen == log.records


# JSON.


def test_a_json_line_tells_time_level_logger_message_and_fields() -> None:
    log = Log(JsonFormatter())
    record = logging.LogRecord("shop.till", logging.WARNING, "till.py", 7, "%s\nlines", (2,), None)
    record.created = 1_767_225_600.25
    vars(record).update(charge="chg_1", nested={"at": [1, None, True, 0.5]}, level="of ours")
    log.logger.handle(record)
    assert log.lines == [
        {
            "time": "2026-01-01T00:00:00.250Z",
            "level": "WARNING",
            "logger": "shop.till",
            "message": "2\nlines",
            "charge": "chg_1",
            "nested": {"at": [1, None, True, 0.5]},
            "level_": "of ours",
        }
    ]


@quick
@given(nested | st.binary() | st.floats() | st.sets(st.integers()) | st.characters(categories=["Cs"]) | st.just(10**5000))
def test_whatever_a_field_holds_the_line_is_json(value: Any) -> None:
    log = Log(JsonFormatter())
    circle: list[Any] = [value]
    circle.append(circle)
    deep: Any = value
    for _ in range(2_000):
        deep = [deep]
    log.logger.handlers = log.logger.handlers[:1]
    log.logger.info("x", extra={"value": value, "circle": circle, "deep": deep, "keys": {(1, 2): value}})
    (line,) = log.lines
    assert {"value", "circle", "deep", "keys"} <= set(line)


# Handlers.


@pytest.fixture
def tree() -> Iterator[logging.Logger]:
    """A logger with a child, each with a handler; gone after the test."""
    top, child = logging.getLogger("payre_test_tree"), logging.getLogger("payre_test_tree.child")
    top.handlers, child.handlers = [logging.StreamHandler(io.StringIO())], [logging.StreamHandler(io.StringIO())]
    yield top
    top.handlers, child.handlers = [], []


def test_handlers_are_redacted_once_and_those_of_others_not_at_all(tree: logging.Logger) -> None:
    stranger = logging.getLogger("payre_test_tree_of_others")
    stranger.handlers = [logging.StreamHandler(io.StringIO())]
    for _ in range(3):
        redact_handlers(tree)
    children = [*tree.handlers, *logging.getLogger("payre_test_tree.child").handlers]
    assert [len(handler.filters) for handler in children] == [1, 1]
    assert stranger.handlers.pop().filters == []


def run(program: str, *arguments: str) -> tuple[str, str]:
    """What a process says on stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=True, env={}
    )
    return done.stdout, done.stderr


CONFIGURED = """
import logging, sys
from payre_mcp.logs import configure_logs
key, level, form = sys.argv[1:]
for _ in range(2):
    configure_logs(level or None, form)
logging.getLogger("shop").info("key %s", key)
logging.getLogger("shop").warning("oh", extra={"charge": 7})
"""


def test_configured_logs_go_to_stderr_once_and_redacted() -> None:
    out, err = run(CONFIGURED, KEY.text, "INFO", "text")
    assert out == ""
    assert [line.partition(" INFO ")[2] or line.partition(" WARNING ")[2] for line in err.splitlines()] == [
        f"shop: key {KEY.shown}",
        "shop: oh",
    ]


def test_configured_logs_are_json_when_asked() -> None:
    out, err = run(CONFIGURED, KEY.text, "", "json")
    (line,) = map(json.loads, err.splitlines())
    assert (out, line["message"], line["charge"]) == ("", "oh", 7)


def test_the_handler_of_the_sdk_gives_way() -> None:
    program = f"from mcp.server.mcpserver import MCPServer\nMCPServer('shop')\n{CONFIGURED}"
    out, err = run(program, KEY.text, "INFO", "json")
    assert (out, [json.loads(line)["message"] for line in err.splitlines()]) == ("", [f"key {KEY.shown}", "oh"])


def test_a_program_with_logging_of_its_own_keeps_it_and_has_it_redacted() -> None:
    program = f"import logging\nlogging.basicConfig(format='mine %(message)s', level='INFO')\n{CONFIGURED}"
    out, err = run(program, KEY.text, "ERROR", "json")
    assert (out, err) == ("", f"mine key {KEY.shown}\nmine oh\n")


def test_where_nobody_configured_logging_the_last_resort_is_redacted() -> None:
    program = """
import logging, sys
from payre_mcp.logs import redact_handlers
redact_handlers()
logging.getLogger("shop").warning("key %s", sys.argv[1])
"""
    assert run(program, KEY.text) == ("", f"key {KEY.shown}\n")
