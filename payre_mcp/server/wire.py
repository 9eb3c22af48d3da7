"""What an MCP client sees of Payre: the `_meta` keys, prices in lists, receipts, refusals. The only file that knows shapes.

A receipt goes into `_meta`, never into `structuredContent`: strict output schemas would fail, and some hosts show the
model only structured content when there is any. A refusal is complete in its text and in its structured content each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import SERVER_INFO_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from payre_mcp.errors import InvalidRequest, PayreError
from payre_mcp.gateway.base import Settlement
from payre_mcp.gateway.error_document import document_of
from payre_mcp.money import ZERO, InvalidAmount, Money
from payre_mcp.pricing import Quote, Target
from payre_mcp.pricing.describe import Advert, quote_lines
from payre_mcp.pricing.usage import Answered, text_within
from payre_mcp.receipts import canonical_json, sha256_hex

PRICE = "dev.payre/price"
RECEIPT = "dev.payre/receipt"
RECEIPTS = "dev.payre/receipts"
"""All receipts of a result, where one call caused several charges."""

PAYMENT_REQUIRED = "dev.payre/payment-required"
IDEMPOTENCY_KEY = "dev.payre/idempotency-key"
MAX_PRICE = "dev.payre/max-price"
REPLAYED = "dev.payre/replayed"
SETTLEMENT = "dev.payre/settlement"

REFUSED = -32010
"""JSON-RPC code of a refusal where the method has no error result of its own; in the range left to implementations."""

_CALLS = {"tools/call": ("tool", "name"), "resources/read": ("resource", "uri"), "prompts/get": ("prompt", "name")}
_LISTS = {
    "tools/list": ("tools", "tool", "name"),
    "resources/list": ("resources", "resource", "uri"),
    "resources/templates/list": ("resourceTemplates", "resource", "uriTemplate"),
    "prompts/list": ("prompts", "prompt", "name"),
}

Result = dict[str, Any]


def is_list(method: str) -> bool:
    """Whether this method lists things that can carry a price."""
    return method in _LISTS


def called(method: str, params: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """(kind, name or address) of what a request calls, if it is of a kind that can carry a price."""
    if method not in _CALLS or not params:
        return None
    kind, field = _CALLS[method]
    name = params.get(field)
    return (kind, name) if isinstance(name, str) else None


def max_price(meta: Mapping[str, Any]) -> Money | None:
    """The caller's limit for this call. Raises `InvalidRequest` for what is no price."""
    if (limit := meta.get(MAX_PRICE)) is None:
        return None
    try:
        return Money.parse(limit)
    except InvalidAmount as error:
        raise InvalidRequest(f"_meta[{MAX_PRICE!r}]: {error}. Nothing ran and nothing was charged") from None


def idempotency_key(meta: Mapping[str, Any]) -> str | None:
    """The caller's name for this call. Raises `InvalidRequest` for what is not text."""
    key = meta.get(IDEMPOTENCY_KEY)
    if key is not None and not isinstance(key, str):
        raise InvalidRequest(f"_meta[{IDEMPOTENCY_KEY!r}] is not text. Nothing ran and nothing was charged")
    return key


def is_success(out: Result) -> bool:
    """Whether a result is final and not an error: only that is charged."""
    return not out.get("isError") and out.get("resultType") in (None, "complete")


def asks_for_input(out: Result) -> bool:
    """Whether a result is a question to the caller, whose answer is the next round of the same call."""
    return out.get("resultType") == "input_required"


def is_settled(out: Result) -> bool:
    """Whether a result says how it was charged."""
    meta: Mapping[str, Any] = out.get("_meta") or {}
    return RECEIPT in meta or SETTLEMENT in meta


def result_digest(out: Result) -> str:
    """SHA-256 of what the caller got, without `_meta`."""
    return sha256_hex(canonical_json({name: value for name, value in out.items() if name != "_meta"}))


def answered(out: Result, took_us: int) -> Answered:
    """What a caller got, measured: its text, or where there is none the text inside its structured content, and its blobs."""
    blocks = list(_blocks(out))
    texts = [block["text"] for block in blocks if isinstance(block.get("text"), str)]
    structured = out.get("structuredContent")
    blobs = [blob for block in blocks if isinstance(blob := block.get("blob", block.get("data")), str)]
    texts = texts or list(text_within(structured))
    return Answered(
        characters=sum(map(len, texts)),
        size=sum(len(text.encode(errors="surrogatepass")) for text in texts) + sum(map(_decoded_size, blobs)),
        structured=structured,
        meta=out.get("_meta") or {},
        took_us=took_us,
    )


def with_prices(method: str, out: Result, adverts: Mapping[Target, Advert], *, in_description: bool) -> Result:
    """A list result with the price in the `_meta` of every priced entry, and in its description for models."""
    key, kind, field = _LISTS[method]
    return {
        **out,
        key: [
            _priced(entry, adverts.get(Target(kind, entry[field])), in_description=in_description) for entry in out.get(key, ())
        ],
    }


def quoted(target: Target, advert: Advert | None, quote: Quote | None) -> Result:
    """The answer of `payre/quote`; for what has no price, that it costs nothing."""
    known: dict[str, Any] = {"kind": target.kind, "name": target.name, "currency": "USD"}
    if advert is None or quote is None:
        return {**known, "price": None, "max_usd": ZERO.usd, "max_micros": 0, "lines": []}
    most = quote.ceiling
    return {
        **known,
        "price": advert.card,
        "variant": quote.variant,
        "max_usd": None if most is None else most.usd,
        "max_micros": None if most is None else most.micros,
        "lines": quote_lines(quote),
        "not_known": list(quote.missing),
    }


def with_receipt(out: Result, settlement: Settlement) -> Result:
    """A result with its receipt. What was paid for is nobody else's: no shared cache may hand it on."""
    if out.get("cacheScope") == "public":
        out = {**out, "cacheScope": "private"}
    return _with_meta(out, {RECEIPT: settlement.receipt})


def with_receipts(out: Result, receipts: Sequence[str]) -> Result:
    """A result with the receipts of what was charged inside it, beside its own."""
    if not receipts:
        return out
    meta: Mapping[str, Any] = out.get("_meta") or {}
    every = list(dict.fromkeys(filter(None, (meta.get(RECEIPT), *receipts))))
    if out.get("cacheScope") == "public":
        out = {**out, "cacheScope": "private"}
    return _with_meta(out, {RECEIPT: every[0], **({RECEIPTS: every} if len(every) > 1 else {})})


def replayed(out: Result) -> Result:
    """A result that was made and paid for before."""
    return _with_meta(out, {REPLAYED: True})


def with_settlement(out: Result, state: str) -> Result:
    """A result that was delivered though its charge is not known to stand: `pending` or `uncollected`."""
    return _with_meta(out, {SETTLEMENT: state})


def refusal(method: str, error: PayreError, *, version: str, server_info: Mapping[str, Any] | None) -> Result:
    """What a caller gets instead of a result: a tool error that a model can read out, or a JSON-RPC error.

    Raises:
        MCPError: The method has no error result of its own.
    """
    facts = document_of(error)
    if method != "tools/call":
        raise MCPError(code=REFUSED, message=error.message, data=facts)
    meta: dict[str, Any] = {PAYMENT_REQUIRED: facts}
    if receipt := facts.get("receipt"):
        meta[RECEIPT] = receipt
    out: Result = {
        "content": [{"type": "text", "text": f"{error.message} ({error.code})"}],
        "structuredContent": facts,
        "isError": True,
    }
    if version in MODERN_PROTOCOL_VERSIONS:
        out["resultType"] = "complete"
        if server_info is not None:
            meta[SERVER_INFO_META_KEY] = server_info
    return {**out, "_meta": meta}


def link_question(name: str, message: str, url: str, state: object, server_info: Mapping[str, Any] | None) -> Result:
    """A result that asks the caller to open a page, as URL elicitation; `state` comes back with the answer."""
    asked = {"method": "elicitation/create", "params": {"mode": "url", "message": message, "url": url}}
    out: Result = {"resultType": "input_required", "inputRequests": {name: asked}, "requestState": state}
    return out if server_info is None else _with_meta(out, {SERVER_INFO_META_KEY: server_info})


def _blocks(out: Result) -> Iterator[Mapping[str, Any]]:
    """The blocks of a tool's, a resource's or a prompt's result; an embedded resource counts as what it embeds."""
    messages = [message.get("content") for message in out.get("messages", ())]
    for block in (*out.get("content", ()), *out.get("contents", ()), *messages):
        yield block.get("resource", block)


def _decoded_size(base64_text: str) -> int:
    return len(base64_text) * 3 // 4 - base64_text[-2:].count("=")


def _with_meta(out: Result, marks: Mapping[str, Any]) -> Result:
    return {**out, "_meta": {**(out.get("_meta") or {}), **marks}}


def _priced(entry: Result, advert: Advert | None, *, in_description: bool) -> Result:
    if advert is None:
        return entry
    priced = _with_meta(entry, {PRICE: advert.card})
    if in_description:
        priced["description"] = f"{entry.get('description') or ''} {advert.sentence}".strip()
    return priced
