"""Results of FastMCP's tools, resources and prompts, and what the wire makes of them, both ways."""

import logging
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NoReturn

from fastmcp.exceptions import ToolError
from fastmcp.prompts.base import InputRequiredPromptResult, Message, PromptResult
from fastmcp.resources.base import InputRequiredResourceResult, ResourceContent, ResourceResult
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from mcp_types import CallToolResult, GetPromptResult, ReadResourceResult, TextResourceContents
from pydantic import BaseModel

from payre_mcp.server.nested import Shape, as_error
from payre_mcp.server.wire import Result


class _ToolShape:
    def to_wire(self, result: Any) -> Result:
        if isinstance(result, InputRequiredToolResult):
            return _dumped(result.input_required)
        if not isinstance(result, ToolResult):
            return _dumped(result)
        shaped = result.to_mcp_result()
        if isinstance(shaped, list):
            shaped = (shaped, None)
        return _dumped(
            shaped if isinstance(shaped, CallToolResult) else CallToolResult(content=shaped[0], structured_content=shaped[1])
        )

    def from_wire(self, out: Result) -> ToolResult:
        return ToolResult.from_mcp_result(CallToolResult.model_validate(out))

    def with_meta(self, result: ToolResult, meta: Mapping[str, Any]) -> ToolResult:
        return ToolResult(result.content, result.structured_content, dict(meta), result.is_error)

    def refused(self, out: Result, *, completed: bool) -> ToolResult:
        return _refuse_by_text(out) if completed else self.from_wire(out)


class _ResourceShape:
    def to_wire(self, result: Any) -> Result:
        asks = isinstance(result, InputRequiredResourceResult)
        return _dumped(result.input_required if asks else result.to_mcp_result(""))

    def from_wire(self, out: Result) -> ResourceResult:
        read = ReadResourceResult.model_validate(out)
        contents = [
            ResourceContent(
                each.text if isinstance(each, TextResourceContents) else b64decode(each.blob), each.mime_type, each.meta
            )
            for each in read.contents
        ]
        return ResourceResult(contents, read.meta)

    def with_meta(self, result: ResourceResult, meta: Mapping[str, Any]) -> ResourceResult:
        return ResourceResult(result.contents, dict(meta))

    def refused(self, out: Result, *, completed: bool) -> ResourceResult:
        return _refuse_by_text(out) if completed else _refuse_by_error(out)


class _PromptShape:
    def to_wire(self, result: Any) -> Result:
        asks = isinstance(result, InputRequiredPromptResult)
        return _dumped(result.input_required if asks else result.to_mcp_prompt_result())

    def from_wire(self, out: Result) -> PromptResult:
        got = GetPromptResult.model_validate(out)
        return PromptResult([Message(each.content, each.role) for each in got.messages], got.description, got.meta)

    def with_meta(self, result: PromptResult, meta: Mapping[str, Any]) -> PromptResult:
        return PromptResult(result.messages, result.description, dict(meta))

    def refused(self, out: Result, *, completed: bool) -> PromptResult:
        return _refuse_by_text(out) if completed else _refuse_by_error(out)


SHAPES: Mapping[str, Shape[Any]] = {"tool": _ToolShape(), "resource": _ResourceShape(), "prompt": _PromptShape()}


def _refuse_by_text(out: Result) -> NoReturn:
    raise ToolError(out["content"][0]["text"], log_level=logging.INFO)


def _refuse_by_error(out: Result) -> NoReturn:
    raise as_error(out)


def _dumped(result: BaseModel) -> Result:
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)
