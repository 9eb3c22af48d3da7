"""Where a Payre key goes in the client at hand, said to whoever reads its errors.

Clients tell their names when they connect; the forms below are those of their own documentation.
"""

from typing import Any

from mcp.server.context import ServerRequestContext

_BY_CLIENT = (
    ("claude code", 'claude mcp add --transport http --header "X-Payre-Key: pyr_ck_..." NAME URL'),
    ("cursor", 'in .cursor/mcp.json, give this server "headers": {"X-Payre-Key": "${env:PAYRE_KEY}"}'),
    ("visual studio code", 'in .vscode/mcp.json, give this server "headers": {"X-Payre-Key": "${input:payre-key}"}'),
    ("codex", 'in config.toml, give this server env_http_headers = { "X-Payre-Key" = "PAYRE_KEY" }'),
    ("windsurf", 'in mcp_config.json, give this server "headers": {"X-Payre-Key": "${env:PAYRE_KEY}"}'),
    ("claude", "this client sends no headers of yours: connect through a local server on stdio, with PAYRE_KEY in its env"),
    ("chatgpt", "this client sends no headers of yours: connect through a client that does"),
)
"""Parts of names, hyphens as blanks, the more special first; and what to do there."""

ON_STDIO = (
    'Put your Payre key into the client\'s configuration of this server, as "env": {"PAYRE_KEY": "pyr_ck_..."}, and restart it'
)
OVER_HTTP = "Send your Payre key in the X-Payre-Key header"


def key_advice(ctx: ServerRequestContext[Any, Any]) -> str:
    """How to send a key from this client over this transport, in a sentence without its full stop."""
    if ctx.request is None:
        return ON_STDIO
    known = ctx.session.client_params
    name = "" if known is None else known.client_info.name.lower().replace("-", " ")
    form = next((form for part, form in _BY_CLIENT if part in name), None)
    return OVER_HTTP if form is None else f"{OVER_HTTP}: {form}"
