"""Tools and a prompt that answer with a question first: the multi-round results of revision 2026-07-28."""

from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

_Context = Context[Any, Any]


def test_input_required_result_elicitation(ctx: _Context) -> str | InputRequiredResult:
    """Asks for a name, and greets."""
    name = _filled_in(ctx, "user_name", "name")
    return _ask(user_name=_form("What is your name?", "name")) if name is None else f"Hello, {name}!"


def test_input_required_result_sampling(ctx: _Context) -> str | InputRequiredResult:
    """Asks the client's model for a capital."""
    answer = _answers(ctx).get("capital_question")
    if isinstance(answer, CreateMessageResult):
        return f"The model says: {answer.content.model_dump_json()}"
    return _ask(capital_question=_sampling("What is the capital of France?"))


def test_input_required_result_list_roots(ctx: _Context) -> str | InputRequiredResult:
    """Asks for the client's roots, and names them."""
    answer = _answers(ctx).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return f"Roots: {[str(root.uri) for root in answer.roots]}"
    return _ask(client_roots=ListRootsRequest())


def test_input_required_result_request_state(ctx: _Context) -> str | InputRequiredResult:
    """Asks for a confirmation, and knows its own state again."""
    return _confirmed(ctx)


def test_input_required_result_tampered_state(ctx: _Context) -> str | InputRequiredResult:
    """Asks for a confirmation; a state that was touched never comes back here."""
    return _confirmed(ctx)


def test_input_required_result_multiple_inputs(ctx: _Context) -> str | InputRequiredResult:
    """Asks for three things at once."""
    asked: dict[str, InputRequest] = {
        "user_name": _form("What is your name?", "name"),
        "greeting": _sampling("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    if ctx.request_state == "asked" and asked.keys() <= _answers(ctx).keys():
        return "all three are answered"
    return _ask("asked", **asked)


def test_input_required_result_multi_round(ctx: _Context) -> str | InputRequiredResult:
    """Asks twice, the second time knowing the first answer."""
    state = ctx.request_state or ""
    name, color = _filled_in(ctx, "step1", "name"), _filled_in(ctx, "step2", "color")
    if state == "round 1" and name is not None:
        return _ask(f"round 2 {name}", step2=_form("Step 2: What is your favorite color?", "color"))
    if state.startswith("round 2 ") and color is not None:
        return f"{state.removeprefix('round 2 ')} likes {color}"
    return _ask("round 1", step1=_form("Step 1: What is your name?", "name"))


def test_input_required_result_capabilities(ctx: _Context) -> str | InputRequiredResult:
    """Asks only for what the client declared that it can do."""
    declared = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if declared and declared.elicitation:
        asked["user_name"] = _form("What is your name?", "name")
    if declared and declared.sampling:
        asked["capital_question"] = _sampling("What is the capital of France?")
    return _ask(**asked) if asked and not _answers(ctx) else "nothing to ask"


def test_streaming_elicitation(ctx: _Context) -> str | InputRequiredResult:
    """Asks in its result, never on the stream."""
    return _confirmed(ctx)


TOOLS: tuple[Callable[..., Any], ...] = (
    test_input_required_result_elicitation, test_input_required_result_sampling, test_input_required_result_list_roots,
    test_input_required_result_request_state, test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs, test_input_required_result_multi_round, test_input_required_result_capabilities,
    test_streaming_elicitation,
)  # fmt: skip


def test_input_required_result_prompt(ctx: _Context) -> str | InputRequiredResult:
    """Asks for a context, and uses it."""
    given = _filled_in(ctx, "user_context", "context")
    return _ask(user_context=_form("What context should the prompt use?", "context")) if given is None else f"Context: {given}"


PROMPTS: tuple[Callable[..., Any], ...] = (test_input_required_result_prompt,)


def _confirmed(ctx: _Context) -> str | InputRequiredResult:
    if ctx.request_state == "waiting" and _filled_in(ctx, "confirm", "ok") is not None:
        return "state-ok"
    return _ask("waiting", confirm=_form("Please confirm", "ok", "boolean"))


def _ask(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _answers(ctx: _Context) -> dict[str, Any]:
    return dict(ctx.input_responses or {})


def _filled_in(ctx: _Context, form: str, field: str) -> object:
    """What the user wrote into a field of a form; None while they have not."""
    answer = _answers(ctx).get(form)
    if not isinstance(answer, ElicitResult) or answer.action != "accept":
        return None
    return (answer.content or {}).get(field)


def _form(message: str, field: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sampling(text: str) -> CreateMessageRequest:
    question = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[question], max_tokens=100))
