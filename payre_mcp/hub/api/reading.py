"""From bytes to a checked message. What is wrong is said in a sentence that names the field and never repeats a value."""

import json
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic.alias_generators import to_snake
from starlette.datastructures import Headers, QueryParams

from payre_mcp.errors import InvalidRequest
from payre_mcp.gateway.schemas import REQUEST_ID, Message, ServerName
from payre_mcp.logs import redact
from payre_mcp.money import InvalidAmount, Money
from payre_mcp.text import shown

_LONGEST_NAME = 255

MessageT = TypeVar("MessageT", bound=Message)


def read_body(body: bytes, model: type[MessageT]) -> MessageT:
    """The message in a body; an empty body is an empty object.

    Raises:
        InvalidRequest: It is no JSON, or not what the endpoint takes.
    """
    try:
        sent: Any = json.loads(body, parse_constant=_refused) if body else {}
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON (RFC 8259, UTF-8); nothing was done") from None
    return read(sent, model)


def is_json_object(text: str) -> bool:
    """Whether this is a JSON object, and stays one when it is said again."""
    try:
        value = json.loads(text, parse_constant=_refused)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def read_query(query: QueryParams, model: type[MessageT]) -> MessageT:
    """The message in a query; every parameter once. Raises `InvalidRequest`."""
    sent = dict(query.multi_items())
    if len(sent) < len(query.multi_items()):
        raise InvalidRequest("a query parameter came more than once; nothing was done")
    return read(sent, model)


def read(sent: object, model: type[MessageT]) -> MessageT:
    """The message that was sent. Raises `InvalidRequest`."""
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error)) from None


def read_name(headers: Headers) -> str:
    """The `Idempotency-Key` of a request, empty where it has none. Raises `InvalidRequest`."""
    names = headers.getlist(REQUEST_ID)
    if not names:
        return ""
    name = names[0]
    if len(names) > 1 or not 0 < len(name) <= _LONGEST_NAME or not all("!" <= each <= "~" for each in name):
        raise InvalidRequest(f"{REQUEST_ID} is sent once, as 1 to {_LONGEST_NAME} visible ASCII characters; nothing was done")
    return name


def amount_of(amount: str | float | None, micros: int | None) -> Money | None:
    """The amount that was sent in one of the two ways, None where it was in neither. Raises `InvalidRequest`."""
    if amount is not None and micros is not None:
        raise InvalidRequest("send `amount` (dollars) or `amount_micros`, not both; nothing was done")
    if micros is not None:
        return Money(micros)
    try:
        return None if amount is None else Money.parse(amount)
    except InvalidAmount as error:
        raise InvalidRequest(f"`amount`: {redact(str(error))}; nothing was done") from None


def required_amount(amount: str | float | None, micros: int | None) -> Money:
    """As `amount_of`, where there has to be one."""
    money = amount_of(amount, micros)
    if money is None:
        raise InvalidRequest('`amount` (dollars, such as "0.005") or `amount_micros` is missing; nothing was done')
    return money


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, kind = _place(first["loc"], first["type"]), first["type"]
    if kind == "extra_forbidden":
        return f"{place} is not known here; nothing was done"
    if kind == "missing":
        return f"{place} is missing; nothing was done"
    return f"{place}: {first['msg'].rstrip('.')}; nothing was done"


def _place(loc: tuple[Any, ...], kind: str) -> str:
    """Where it is wrong, by the names that answers use; an unknown name as it was sent, without a secret in it."""
    last = len(loc) - 1
    names = [part if isinstance(part, int) or (kind == "extra_forbidden" and at == last) else to_snake(part)
             for at, part in enumerate(loc)]  # fmt: skip
    if not names:
        return "the request"
    text = redact(".".join(str(name) for name in names))
    return f"`{text}`" if text.isascii() and text.isprintable() and len(text) <= 80 else shown(text)


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


def read_server(name: str) -> str:
    """A server's name in an address. Raises `InvalidRequest`."""
    return read({"server": name}, _Named).server


class _Named(Message):
    server: ServerName
