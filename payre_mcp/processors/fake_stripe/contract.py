"""What a request may hold: the parameter types of the installed stripe package, checked as Stripe checks requests.

The package's types say more is allowed than Stripe allows; what else Stripe refuses, each noun refuses itself.
Nothing here was ever compared with Stripe: it is what the package says of it.
"""

import re
import sys
from collections.abc import Mapping
from decimal import Decimal  # noqa: TID251 - a type that stripe's parameters have; no money is computed with it
from functools import cache
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, cast, get_args, get_origin

from stripe import RequestOptions, StripeObject
from typing_extensions import get_type_hints, is_typeddict

from payre_mcp.processors.fake_stripe.refusals import Refusal
from payre_mcp.processors.fake_stripe.wire import Json, param_name

_INTEGER, _NUMBER = re.compile(r"-?[0-9]{1,18}"), re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,12})?")
PLAIN = (str, int, bool, float, Decimal, NoneType, Any)
"""The types that are not put together of others."""

_WRAPPERS = (NotRequired, Required, Annotated)
_WORDS: Mapping[Any, str] = {int: "integer", bool: "boolean", str: "string"}
_GONE = {"payment_method_types": "payment_method_types_no_longer_supported"}
"""Parameters that older versions had, and the code of their refusal."""
_OPTIONS = frozenset(RequestOptions.__annotations__)
"""Fields of the parameter types that are options of the client: on the wire they are unknown."""


def check(contract: str, values: Json, *, text: bool) -> Json:
    """The parameters of a request as their types: `contract` is the module below `stripe.params` and the class.

    Args:
        contract: Such as `_refund_create_params:RefundCreateParams`.
        values: As they were decoded.
        text: They came as text, in a form or a query, and are turned into numbers and booleans.
    """
    return _Reader(text).fields(named(contract), values, "")


@cache
def named(contract: str) -> Any:
    """The type of a call's parameters."""
    module, _, name = contract.partition(":")
    return getattr(import_module(f"stripe.params.{module}"), name)


@cache
def fields_of(kind: Any) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The types of a TypedDict's fields, and which are required. Names are those of its own module."""
    names = {**vars(sys.modules[RequestOptions.__module__]), **vars(sys.modules[kind.__module__])}
    # The client's own types are imported for type checkers only; its options are dropped anyway.
    hints = get_type_hints(kind, globalns=names, localns={"Literal": Literal, "StripeContext": Any}, include_extras=True)
    known = {name: hint for name, hint in hints.items() if name not in _OPTIONS}
    return known, frozenset(kind.__required_keys__) - _OPTIONS


@cache
def _branches(kind: Any) -> tuple[Any, ...]:
    """The types of a union. The package leaves every enum open for values to come; this version's values are known."""
    kinds = get_args(kind)
    values = {value for each in kinds if get_origin(each) is Literal for value in get_args(each)} - {""}
    return tuple(each for each in kinds if each is not str) if values else kinds


def _refused(message: str, name: str, code: str) -> Refusal:
    return Refusal(message, param=name, code=code, executed=False)


class _Reader:
    """Reads one request."""

    def __init__(self, text: bool) -> None:  # noqa: FBT001 - private
        self._text = text

    def fields(self, kind: Any, value: Any, name: str) -> Json:
        """A TypedDict."""
        given = self._map(value, name)
        known, required = fields_of(kind)
        for each in given:
            if each not in known:
                param = param_name(name, each)
                raise _refused(f"Received unknown parameter: {param}", param, _GONE.get(each, "parameter_unknown"))
        for each in sorted(required - given.keys()):
            param = param_name(name, each)
            raise _refused(f"Missing required param: {param}.", param, "parameter_missing")
        return {each: self.value(known[each], inner, param_name(name, each)) for each, inner in given.items()}

    def value(self, kind: Any, value: Any, name: str) -> Any:
        """A value of any type."""
        origin = get_origin(kind)
        if origin in _WRAPPERS:
            return self.value(get_args(kind)[0], value, name)
        if is_typeddict(kind):
            return self.fields(kind, value, name)
        if origin in (Union, UnionType):
            return self._union(kind, value, name)
        if origin is Literal:
            return self._one_of(get_args(kind), value, name)
        if origin is list:
            return self._list(get_args(kind)[0], value, name)
        if origin is dict or (isinstance(origin, type) and issubclass(origin, StripeObject)):
            inner = get_args(kind)[-1]
            return {each: self.value(inner, one, param_name(name, each)) for each, one in self._map(value, name).items()}
        return self._plain(kind, value, name)

    def _map(self, value: Any, name: str) -> Json:
        if not isinstance(value, dict):
            raise _refused(f"Invalid object: {name} must be an object", name, "parameter_invalid_object")
        return cast("Json", value)

    def _list(self, kind: Any, value: Any, name: str) -> list[Any]:
        if self._text and isinstance(value, dict):
            items = cast("Json", value)
            if all(each.isdecimal() for each in items):
                value = [items[each] for each in sorted(items, key=int)]
        if not isinstance(value, list):
            raise _refused(f"Invalid array: {name} must be an array", name, "parameter_invalid_array")
        return [self.value(kind, one, param_name(name, place)) for place, one in enumerate(cast("list[Any]", value))]

    def _one_of(self, allowed: tuple[Any, ...], value: Any, name: str) -> Any:
        if value not in allowed:
            choice = ", ".join(str(each) for each in allowed if each != "")
            raise _refused(f"Invalid {name}: must be one of {choice[:300]}", name, "parameter_invalid_enum")
        return value

    def _union(self, kind: Any, value: Any, name: str) -> Any:
        """The first type that takes it; else the complaint of the type that it was most likely meant for."""
        complaint: Refusal | None = None
        for each in _branches(kind):
            try:
                return self.value(each, value, name)
            except Refusal as error:
                fits = isinstance(value, dict | list) == (is_typeddict(each) or get_origin(each) in (list, dict))
                complaint = error if complaint is None or fits else complaint
        assert complaint is not None
        raise complaint

    def _plain(self, kind: Any, value: Any, name: str) -> Any:
        if kind is Any:
            return value
        if kind is NoneType and value is None:
            return None
        if kind is str and isinstance(value, str):
            return value
        if kind is bool and (isinstance(value, bool) or (self._text and value in ("true", "false"))):
            return value in (True, "true")
        if kind is int and self._is_number(value, _INTEGER):
            return int(value)
        if kind in (float, Decimal) and (self._is_number(value, _NUMBER) or self._is_text(value, _NUMBER)):
            return str(value)
        word = _WORDS.get(kind, "number")
        raise _refused(f"Invalid {word}: {str(value)[:80]}", name, f"parameter_invalid_{word}")

    def _is_number(self, value: Any, form: re.Pattern[str]) -> bool:
        if self._text:
            return self._is_text(value, form)
        return isinstance(value, int) and not isinstance(value, bool)

    def _is_text(self, value: Any, form: re.Pattern[str]) -> bool:
        return isinstance(value, str) and form.fullmatch(value) is not None
