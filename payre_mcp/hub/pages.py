"""Pages for people. Server-rendered, no JavaScript; every answer forbids framing, foreign content and caching."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from payre_mcp.errors import InvalidRequest, NotFound
from payre_mcp.gateway.base import TopUpDesk, TopUpView

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # the address of a top-up page is a secret
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_STYLE = Path(__file__).parent / "static" / "payre.css"
_templates = Environment(loader=PackageLoader("payre_mcp.hub"), autoescape=select_autoescape(default=True))

TOP_UP_PATH = "/top-ups"


def render(template: str, values: Mapping[str, Any], *, status: int = 200) -> HTMLResponse:
    """A page with the headers that every page has."""
    return HTMLResponse(_templates.get_template(template).render(values), status_code=status, headers=_HEADERS)


def top_up_routes(desk: TopUpDesk) -> Sequence[Route]:
    """The page of a top-up link: names the account and the amount, and in test mode has a button that credits it once."""

    async def show(request: Request) -> Response:
        try:
            return _page(await desk.find_top_up(request.path_params["token"]))
        except NotFound:
            return _missing()

    async def pay(request: Request) -> Response:
        try:
            await desk.pay_test_top_up(request.path_params["token"])
        except NotFound:
            return _missing()
        except InvalidRequest as error:
            top_up = await desk.find_top_up(request.path_params["token"])
            return _page(top_up, problem=error.message, status=409)
        # Back to the page by GET, so that reloading it pays nothing again.
        return RedirectResponse(request.url.path, status_code=303, headers=_HEADERS)

    return (
        Route(f"{TOP_UP_PATH}/{{token}}", show, methods=["GET"]),
        Route(f"{TOP_UP_PATH}/{{token}}", pay, methods=["POST"]),
        style_route(),
    )


def style_route() -> Route:
    """The one style sheet."""

    async def style(_: Request) -> Response:
        return FileResponse(_STYLE, media_type="text/css")

    return Route("/static/payre.css", style, methods=["GET"])


def _page(top_up: TopUpView, *, problem: str | None = None, status: int = 200) -> Response:
    return render("top_up.html", {"top_up": top_up, "problem": problem}, status=status)


def _missing() -> Response:
    return render("missing.html", {}, status=404)
