"""The pages that Stripe would host: paying, and onboarding. Server-rendered, no JavaScript; no money moves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from payre_mcp.processors.fake_stripe.account_links import AccountLinks, Link
from payre_mcp.processors.fake_stripe.accounts import Accounts, Status
from payre_mcp.processors.fake_stripe.cards import BANK, CARDS, by_number
from payre_mcp.processors.fake_stripe.checkout import Checkout
from payre_mcp.processors.fake_stripe.store import Store
from payre_mcp.processors.fake_stripe.wire import Json, decode_form

_STYLE = Path(__file__).parent / "static" / "fake_stripe.css"
_templates = Environment(loader=PackageLoader("payre_mcp.processors.fake_stripe"), autoescape=select_autoescape(default=True))


class Pages:
    """What people see of one fake Stripe."""

    def __init__(self, store: Store, checkout: Checkout, accounts: Accounts, links: AccountLinks) -> None:
        self._store, self._checkout, self._accounts, self._links = store, checkout, accounts, links

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/pay/{session}", self._show_session, methods=["GET"]),
            Route("/pay/{session}", self._press, methods=["POST"]),
            Route("/onboard/{link}", self._show_link, methods=["GET"]),
            Route("/onboard/{link}", self._finish, methods=["POST"]),
            Route("/express/{account}", self._show_account, methods=["GET"]),
            Route("/static/fake_stripe.css", _style, methods=["GET"]),
        ]

    async def _show_session(self, request: Request) -> Response:
        session = self._session(request)
        return self._missing() if session is None else self._pay_page(session)

    async def _press(self, request: Request) -> Response:
        session, form = self._session(request), decode_form((await request.body()).decode(errors="replace"))
        if session is None:
            return self._missing()
        if session["status"] != "open":
            return self._pay_page(session, status=409)
        act, number = form.get("act", "pay"), str(form.get("card", ""))
        card = {"decline": CARDS["pm_card_chargeDeclined"], "later": BANK}.get(act, by_number(number))
        if card is None:
            return self._pay_page(
                session, problem=f"{number!r} is not a test card's number. Nothing was paid.", number=number, status=422
            )
        if not self._checkout.offers(session, card):
            return self._pay_page(session, problem="This page does not take that. Nothing was paid.", status=422)
        problem = self._checkout.pay(session["id"], card, save="save" in form)
        if problem is not None:
            return self._pay_page(session, problem=f"{problem} Nothing was paid.", number=number, status=402)
        return _redirect(success_url(session))

    async def _show_link(self, request: Request) -> Response:
        link = self._links.find(request.path_params["link"])
        if link is None:
            return self._missing()
        if not self._links.is_good(request.path_params["link"]):
            return _redirect(link.refresh_url)
        return self._onboarding_page(link)

    async def _finish(self, request: Request) -> Response:
        token = request.path_params["link"]
        link = self._links.find(token)
        if link is None:
            return self._missing()
        if not self._links.is_good(token):
            return _redirect(link.refresh_url)
        form = decode_form((await request.body()).decode(errors="replace"))
        status = form.get("status", "active")
        if status not in get_args(Status):
            return self._onboarding_page(link, status=422)
        self._links.finish(token, cast("Status", status))
        return _redirect(link.return_url)

    async def _show_account(self, request: Request) -> Response:
        self._store.tick()
        account = self._store.find(request.path_params["account"])
        if account is None or account["object"] != "v2.core.account":
            return self._missing()
        values = {"account": account, "dollars": _dollars(self._accounts.balance(account["id"]))}
        return self._render("express.html", values)

    def _session(self, request: Request) -> Json | None:
        self._store.tick()
        thing = self._store.find(request.path_params["session"])
        return thing if thing is not None and thing["object"] == "checkout.session" else None

    def _pay_page(self, session: Json, *, problem: str = "", number: str = "", status: int = 200) -> Response:
        tax = (session["total_details"] or {"amount_tax": 0})["amount_tax"]
        values = {
            "session": session, "items": self._store.more[session["id"]]["line_items"]["data"], "problem": problem,
            "dollars": _dollars, "total": _dollars(session["amount_total"] or 0), "tax": _dollars(tax),
            "number": number or "4242 4242 4242 4242", "later": BANK.type in session["payment_method_types"],
            "success_url": success_url(session),
        }  # fmt: skip
        return self._render("pay.html", values, status=status, leads_to=(session["success_url"],))

    def _onboarding_page(self, link: Link, *, status: int = 200) -> Response:
        account = self._accounts.get(link.account)
        return self._render("onboard.html", {"account": account}, status=status, leads_to=(link.return_url, link.refresh_url))

    def _missing(self) -> Response:
        return self._render("missing.html", {}, status=404)

    def _render(self, template: str, values: Mapping[str, Any], *, status: int = 200, leads_to: tuple[str, ...] = ()) -> Response:
        text = _templates.get_template(template).render(values, url=self._store.url)
        return HTMLResponse(text, status_code=status, headers=_headers(leads_to))


def success_url(session: Json) -> str:
    """Where a person goes who has paid."""
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _headers(leads_to: tuple[str, ...]) -> Mapping[str, str]:
    """A browser follows a form's redirect only to where the page says that its forms lead."""
    places = " ".join(["'self'", *dict.fromkeys(_origin(url) for url in leads_to)])
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'self'; form-action {places}; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


def _origin(url: str) -> str:
    """Scheme, host and port; nothing that could end the header's value early."""
    parts = urlsplit(url)
    host = "".join(sign for sign in parts.netloc.rpartition("@")[2] if sign.isascii() and (sign.isalnum() or sign in "-._:[]"))
    return f"{parts.scheme}://{host}"


def _redirect(url: str) -> Response:
    return RedirectResponse(url, status_code=303, headers=_headers(()))


def _dollars(cents: int) -> str:
    return f"${cents // 100:,}.{cents % 100:02}"


async def _style(_: Request) -> Response:
    return FileResponse(_STYLE, media_type="text/css")
