"""Pages for people. Server-rendered, no JavaScript; every answer forbids framing, foreign content and caching."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

_STYLE = Path(__file__).parent / "static" / "payre.css"
_templates = Environment(loader=PackageLoader("payre_mcp.hub"), autoescape=select_autoescape(default=True))

TOP_UP_PATH = "/top-ups"


def render(template: str, values: Mapping[str, Any], *, status: int = 200, leads_to: Sequence[str] = ()) -> HTMLResponse:
    """A page with the headers that every page has. `leads_to` are the origins that its forms may end at, beside our own."""
    text = _templates.get_template(template).render(values)
    return HTMLResponse(text, status_code=status, headers=_headers(leads_to))


def see_other(url: str) -> Response:
    """On to another page, by GET."""
    return RedirectResponse(url, status_code=303, headers=_headers(()))


def style_route() -> Route:
    """The one style sheet."""

    async def style(_: Request) -> Response:
        return FileResponse(_STYLE, media_type="text/css")

    return Route("/static/payre.css", style, methods=["GET"])


def _headers(leads_to: Sequence[str]) -> Mapping[str, str]:
    forms = " ".join(("'self'", *leads_to))
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'self'; form-action {forms}; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",  # the address of a top-up page is a secret
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
