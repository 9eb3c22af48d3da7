"""Logs that show no secret: not ours, and not those of the SDKs, which at DEBUG write out whole requests.

Taken out are Payre keys, damaged and cut ones too, the tokens of top-up links, receipt keys, Stripe's keys and secrets and all
that its package shows of requests and answers, which are full of names and links, and whatever stands as the value of a header
or setting that carries a secret. The environment is not read here, and stdout is never written to.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from payre_mcp.errors import InvalidApiKey
from payre_mcp.keys import parse_key

HIDDEN = "[hidden]"

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_UNPRINTABLE = "<unprintable"
_DEEPEST = 8
"""Levels of nesting that are looked into; what is further in is text."""

_KEY = re.compile(
    r"(?P<whole>pyr_(?:sk|ck|pk)_(?:live|test)_[0-9A-Za-z]{38}(?![0-9A-Za-z]))"
    # Damaged, cut, or glued to something: all up to the next blank or quote goes. `pyr_ck_test_...a1b2` is safe already.
    r"|(?P<head>pyr[_-][a-z]{2}[_-](?:(?:live|test)[_-])?+)(?!\.\.\.[0-9A-Za-z]{0,4}(?![0-9A-Za-z]))(?:[^\s'\"\\]|\\(?!['\"]))+"
    # Without its beginning; Stripe's secret keys look like this too.
    r"|(?<![0-9A-Za-z])(?P<cut>[a-z]k_(?:live|test)_)[0-9A-Za-z]{8,}"
    # What Stripe signs webhooks with, and what a browser needs to finish a payment.
    r"|(?P<stripe>whsec_|(?:pi|seti|cs_(?:live|test))_[0-9A-Za-z]+_secret_)[0-9A-Za-z+/=]{4,}",
    re.IGNORECASE,
)
_ANSWERED, _ASKED = " message='API response body'", "message='Post details' post_data="
"""By these Stripe's package tells of an answer, which stands before, and of a request, which stands behind."""
_RECEIPT_KEY = re.compile(r"(?<![0-9A-Za-z])(?P<head>[0-9A-Za-z]+:)[0-9A-Za-z_-]{43,}=*")
_TOP_UP = re.compile(r"(?P<head>top-ups(?:/|%2F))(?!\.\.\.)[^\s'\"\\/?#&<>)]+", re.IGNORECASE)
_INPUT = re.compile(r"(?P<head>input_value=)(?P<value>(?:(?!, input_type=).){0,120})(?=, input_type=)")
"""What pydantic shows of an input: where it has cut the middle out, a key may have lost its beginning."""
_NAME = re.compile(
    r"authorization|x[-_]payre[-_]key|x[-_]agentpay[-_]api[-_]key|dev\.payre/key|payre[-_](?:secret[-_]|receipt[-_])?keys?"
    r"|payre[-_]stripe[-_](?:api[-_]key|[a-z_]{0,20}secrets?)|client_secret|signing_secret",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"(?P<head>(?:{_NAME.pattern})(?:[\\'\")\]]*\s*[:=]\s*|\\*['\"]\s*,\s*(?=b?\\*['\"]))(?:b(?=\\*['\"]))?)"
    r"(?:(?P<quote>\\{0,8}['\"])(?P<quoted>(?:\\.|[^\\]){0,4096}?)(?P=quote)|(?P<bare>\\*['\"].*|(?:[a-z]+[ ]+)?[^\s'\",]+))",
    re.IGNORECASE,
)
_SAFE = re.compile(r"(?:bearer\s+)?pyr[_-]\w*\.\.\.[0-9A-Za-z]{0,4}|None|null", re.IGNORECASE)

_HINTS = (
    "pyr", "k_live_", "k_test_", "top-ups", "authorization", "payre", "agentpay", "input_value=", "whsec_", "_secret",
    "api response body", "post details",
)  # fmt: skip
"""One of them stands wherever the slower patterns find anything."""

_STANDARD = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}
"""What every record has; anything else was given by `extra=`."""
_SPOKEN = {"msg", "args", "exc_text", "stack_info"}
"""What of it was said by whoever logged."""


def redact(text: str) -> str:
    """`text` without secrets. Of a whole key the ends stay, as `ApiKey.shown` has them; redacting twice changes nothing."""
    lower = text.lower()
    is_suspect = any(hint in lower for hint in _HINTS)
    if is_suspect:
        text = _INPUT.sub(lambda cut: f"{cut['head']}{HIDDEN}" if "..." in cut["value"] else cut[0], _without_bodies(text))
        text = _TOP_UP.sub(r"\g<head>...", _KEY.sub(_shown_key, text))
    text = _RECEIPT_KEY.sub(r"\g<head>...", text)
    return _NAMED.sub(_hidden_value, text) if is_suspect else text


class RedactingFilter(logging.Filter):
    """Lets a handler see records without secrets. The record itself stays as it is, for the handlers of others.

    It belongs to one handler: a record that holds a secret is stopped here, and a clean copy handed to `handler` instead.
    """

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass as it is."""
        clean = record if isinstance(record, _Clean) else _cleaned(record)
        if clean is record:
            return True
        self._handler.handle(clean)
        return False


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (UTC), `level`, `logger`, `message`, `exception`, `stack`, and what `extra=` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. Never fails: what JSON cannot say is written as text."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record)[0],
        }
        if error := _exception_text(record):
            fields["exception"] = error
        if record.stack_info:
            fields["stack"] = _text(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                fields[f"{name}_" if name in fields else str(name)] = _plain(value, _DEEPEST)
        return json.dumps(fields)


def configure_logs(level: str | None = None, form: Literal["text", "json"] = "text") -> None:
    """Send the process's logs to stderr, redacted; for whoever owns the process.

    The handler that the SDK gives every process in which an `MCPServer` is made goes. A program that has set up logging of
    its own keeps it, level included, and only has it redacted. Without `level` the level stays.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Stderr) or _is_the_sdks(handler):
            root.removeHandler(handler)
    if not root.handlers:
        ours = _Stderr()
        ours.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
        root.addHandler(ours)
        if level is not None:
            root.setLevel(level)
    redact_handlers()


def redact_handlers(logger: logging.Logger | None = None) -> None:
    """Redact what the handlers of `logger` and of all loggers below it write, by default every handler that there is.

    Handlers that are added later are not covered; calling it again covers them and changes nothing for the others.
    """
    root = logging.getLogger()
    top = logger or root
    for handler in {*_handlers_below(top), *((logging.lastResort,) if top is root and logging.lastResort else ())}:
        if not any(isinstance(each, RedactingFilter) for each in handler.filters):
            handler.addFilter(RedactingFilter(handler))


class _Stderr(logging.StreamHandler[Any]):
    """Our own handler, known by its class."""


class _Clean(logging.LogRecord):
    """A copy of a record, without secrets."""


def _handlers_below(top: logging.Logger) -> Iterator[logging.Handler]:
    for name, each in list(logging.root.manager.loggerDict.items()):
        if isinstance(each, logging.Logger) and (top is logging.root or f"{name}.".startswith(f"{top.name}.")):
            yield from each.handlers
    yield from top.handlers


def _is_the_sdks(handler: logging.Handler) -> bool:
    """Whether the constructor of `MCPServer` put this handler there; it marks nothing, but shows the bare message alone."""
    kind = f"{type(handler).__module__}.{type(handler).__name__}"
    form = vars(handler.formatter).get("_fmt") if handler.formatter else None
    return kind in {"rich.logging.RichHandler", "logging.StreamHandler"} and form == "%(message)s"


def _cleaned(record: logging.LogRecord) -> logging.LogRecord:
    """The record itself where it holds no secret, else a copy without."""
    spoken = {name: value for name, value in vars(record).items() if name in _SPOKEN or name not in _STANDARD}
    fields = {name: _named(name, _clean(value)) for name, value in spoken.items()}
    error, (message, is_whole) = _exception_text(record), _message(record)
    if redact(error) != error:
        # With the exception itself a handler could render it anew.
        fields["exc_info"], fields["exc_text"] = None, redact(error)
    if is_whole and redact(message) == message and all(fields[name] is value for name, value in spoken.items()):
        return record
    clean = _Clean("", 0, "", 0, "", (), None)
    vars(clean).update({**vars(record), **fields})
    if _message(clean) != (redact(message), True):
        # A secret that only message and arguments together make up, or arguments that do not fit.
        clean.msg, clean.args = redact(message), None
    return clean


def _named(name: object, clean: Any) -> Any:
    """A clean value by its name: of one that is secret by name, nothing stays but what is fit to be shown."""
    is_secret = clean is not None and _NAME.fullmatch(_text(name, str))
    return HIDDEN if is_secret and not _SAFE.fullmatch(_text(clean, str)) else clean


def _clean(value: Any) -> Any:
    """`value` itself where its text holds no secret. Containers keep their form; any other object becomes its text."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        clean = redact(value)
        return value if clean == value else clean
    if _shows_nothing(value):
        return value
    clean = _clean_parts(value, _DEEPEST)
    return clean if _shows_nothing(clean) else redact(_text(value))


def _clean_parts(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping) and depth:
        items = cast("Mapping[Any, Any]", value).items()
        return {_clean_parts(name, 0): _named(name, _clean_parts(each, depth - 1)) for name, each in items}
    if isinstance(value, list | tuple) and depth:
        parts = [_clean_parts(each, depth - 1) for each in cast("list[Any]", value)]
        return parts if isinstance(value, list) else tuple(parts)
    leaf = cast("object", value)
    return leaf if leaf is None or isinstance(leaf, int | float) or _shows_nothing(leaf) else redact(_text(leaf, str))


def _shows_nothing(value: object) -> bool:
    """Whether a value can be printed in both ways and shows no secret in either."""
    texts = {_text(value), _text(value, str)}
    return all(redact(text) == text and not text.startswith(_UNPRINTABLE) for text in texts)


def _plain(value: object, depth: int) -> Any:
    """What JSON can say of a value."""
    if value is None or isinstance(value, str | bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return value
    if isinstance(value, Mapping) and depth:
        return {_text(name, str): _plain(each, depth - 1) for name, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple) and depth:
        return [_plain(each, depth - 1) for each in cast("list[Any]", value)]
    return redact(_text(cast("object", value), str))


def _message(record: logging.LogRecord) -> tuple[str, bool]:
    """The message, and whether it could be put together; else its parts."""
    try:
        return record.getMessage(), True
    except Exception:  # noqa: BLE001 - whatever an argument's own code does
        return f"{_text(record.msg, str)} {_text(record.args)}", False


def _exception_text(record: logging.LogRecord) -> str:
    if record.exc_text or not record.exc_info:
        return record.exc_text or ""
    try:
        return logging.Formatter().formatException(record.exc_info)
    except Exception:  # noqa: BLE001 - whatever an exception's own code does
        return _text(record.exc_info)


def _text(value: object, form: Any = repr) -> str:
    try:
        return form(value)
    except Exception:  # noqa: BLE001 - whatever an object's own code does
        return f"{_UNPRINTABLE} {type(value).__name__}>"


def _without_bodies(text: str) -> str:
    """What Stripe's package says, without what it sent and got."""
    if (at := text.find(_ASKED)) >= 0:
        text = f"{text[: at + len(_ASKED)]}{HIDDEN}"
    start, end = text.find("body="), text.rfind(_ANSWERED)
    return f"{text[:start]}body={HIDDEN}{text[end:]}" if 0 <= start < end else text


def _shown_key(match: re.Match[str]) -> str:
    if match["whole"] is None:
        return f"{match['head'] or match['cut'] or match['stripe']}..."
    try:
        return parse_key(match["whole"]).shown
    except InvalidApiKey:
        return f"{match['whole'][:-38]}..."


def _hidden_value(match: re.Match[str]) -> str:
    value = match["quoted"] if match["quote"] else match["bare"]
    if _SAFE.fullmatch(value):
        return match[0]
    return f"{match['head']}{match['quote'] or ''}{HIDDEN}{match['quote'] or ''}"
