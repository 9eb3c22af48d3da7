"""The OpenAPI 3.1 document, made from the table of endpoints and the models: what is documented is what is checked."""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from payre_mcp.gateway.schemas import REQUEST_ID, Message
from payre_mcp.hub.api.answers import REQUEST_ID_HEADER
from payre_mcp.hub.api.call import Endpoint, Nothing, Who

_REF = "#/components/schemas/{model}"
_VARIABLE = re.compile(r"\{(\w+)\}")
_IDS = {"hold": "hold", "charge": "chg", "top_up": "top", "key": "key"}
_SECURITY: Mapping[Who, list[dict[str, list[str]]]] = {
    "developer": [{"secret_key": []}],
    "consumer": [{"consumer_key": []}, {"consumer_bearer": []}],
    "either": [{"secret_key": []}, {"consumer_key": []}, {"consumer_bearer": []}],
}
_ERROR = {
    "type": "object",
    "description": "What happened, what it means for the money, and what to do. More fields say what is known of it.",
    "properties": {"error": {"type": "string", "description": "A stable code"}, "message": {"type": "string"}},
    "required": ["error", "message"],
}


def openapi(endpoints: Iterable[Endpoint], *, version: str) -> dict[str, Any]:
    """The document of these endpoints."""
    table = list(endpoints)
    asked: list[Any] = [(each.request, "validation") for each in table]
    answered: list[Any] = [(model, "serialization") for each in table for model in each.answers]
    refs, definitions = models_json_schema([*asked, *answered], by_alias=False, ref_template=_REF)
    schemas: dict[str, Any] = definitions["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for each in table:
        request = refs[each.request, "validation"]
        answers = [refs[model, "serialization"] for model in each.answers]
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, request, answers, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Payre hub", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": _ERROR}, "securitySchemes": _SCHEMES},
    }


_DESCRIPTION = """\
Amounts are integers in `*_micros` (1 USD = 1,000,000) with a decimal string in `*_usd` beside them; times are microseconds \
since 1970 UTC. Requests take snake_case and camelCase names alike; answers are snake_case."""

_SCHEMES = {
    "secret_key": {"type": "http", "scheme": "bearer", "description": "A developer's secret key, `pyr_sk_`"},
    "consumer_key": {"type": "apiKey", "in": "header", "name": "X-Payre-Key", "description": "A consumer's key, `pyr_ck_`"},
    "consumer_bearer": {"type": "http", "scheme": "bearer", "description": "A consumer's key, `pyr_ck_`"},
}


def _operation(endpoint: Endpoint, request: Any, answers: list[Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    text = inspect.getdoc(endpoint.handler) or ""
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "tags": [endpoint.who],
        "summary": text.partition("\n")[0],
        "description": text,
        "security": _SECURITY[endpoint.who],
        "parameters": [*_variables(endpoint.path), *_names(endpoint)],
        "responses": {
            "200": _response("Done", answers[0] if len(answers) == 1 else {"anyOf": answers}),
            "4XX": _response("Refused; nothing was done", {"$ref": _REF.format(model="Error")}),
            "5XX": _response("Not known to be done, or out of order", {"$ref": _REF.format(model="Error")}),
        },
    }
    if endpoint.method in {"POST", "PUT"}:
        operation["requestBody"] = {
            "required": _has_to_come(endpoint.request),
            "content": {"application/json": {"schema": request}},
        }
    else:
        operation["parameters"] += _query(endpoint.request, schemas)
    return operation


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    headers = {REQUEST_ID_HEADER: {"schema": {"type": "string"}, "required": True, "description": "The name of this request"}}
    return {"description": description, "headers": headers, "content": {"application/json": {"schema": schema}}}


def _variables(path: str) -> list[dict[str, Any]]:
    """The variable parts of an address."""
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _pattern(name)}}
        for name in _VARIABLE.findall(path)
    ]


def _pattern(name: str) -> str:
    return f"^{_IDS[name]}_[0-7][0-9a-hjkmnp-tv-z]{{12}}$" if name in _IDS else r"^[A-Za-z0-9_. -]{1,128}$"


def _names(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.naming == "none":
        return []
    schema = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    text = "Names this request: sent again with the same name and content, it finds what the first one did"
    required = endpoint.naming == "required"
    return [{"name": REQUEST_ID, "in": "header", "required": required, "schema": schema, "description": text}]


def _query(model: type[Message], schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    if model is Nothing:
        return []
    fields: Mapping[str, Any] = schemas[model.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in fields.items()]


def _has_to_come(model: type[Message]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())
