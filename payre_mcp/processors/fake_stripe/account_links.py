"""Links to pages for connected accounts: onboarding, good once and for minutes, and the Express dashboard."""

from collections.abc import Sequence
from typing import NamedTuple

from payre_mcp.processors.fake_stripe.accounts import Accounts, Status
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store, iso
from payre_mcp.processors.fake_stripe.wire import Json

LIFE_S = 300


class Link(NamedTuple):
    """A link to onboarding."""

    account: str
    expires_at: int
    use_case: str
    refresh_url: str
    return_url: str


class AccountLinks:
    """The links of one fake Stripe that can still be used."""

    def __init__(self, store: Store, accounts: Accounts) -> None:
        self._store, self._accounts = store, accounts
        self._links: dict[str, Link] = {}

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        login, module = "/v1/accounts/{id}/login_links", "_account_login_link_create_params:AccountLoginLinkCreateParams"
        return (
            ApiRoute(
                "POST", "/v2/core/account_links", "v2.core._account_link_create_params:AccountLinkCreateParams", self.create
            ),
            ApiRoute("POST", login, module, self.log_in),
        )

    def create(self, params: Json) -> Json:
        """A link to onboarding."""
        account, use_case = self._accounts.get(params["account"], param="account"), params["use_case"]
        details = use_case.get(use_case["type"])
        if details is None:
            raise invalid(f"Missing required param: use_case[{use_case['type']}].", "use_case", code="parameter_missing")
        now, token = self._store.now(), self._store.new_id("link_")
        back = details.get("return_url", details["refresh_url"])
        self._links[token] = Link(account["id"], now + LIFE_S, use_case["type"], details["refresh_url"], back)
        return {
            "object": "v2.core.account_link", "account": account["id"], "created": iso(now), "expires_at": iso(now + LIFE_S),
            "livemode": False, "url": f"{self._store.url}/onboard/{token}", "use_case": use_case,
        }  # fmt: skip

    def log_in(self, _: Json, account_id: str) -> Json:
        """A link to the dashboard of an account that is onboarded."""
        if not self._accounts.can_be_paid(self._accounts.get(account_id)):
            raise Refusal("Cannot create a login link for an account that has not completed onboarding.")
        return {"object": "login_link", "created": self._store.now(), "url": f"{self._store.url}/express/{account_id}"}

    def find(self, token: str) -> Link | None:
        """A link, used or not, fresh or not."""
        return self._links.get(token)

    def is_good(self, token: str) -> bool:
        """Whether it can be used."""
        link = self._links.get(token)
        return link is not None and link.expires_at > self._store.now()

    def finish(self, token: str, status: Status) -> None:
        """Somebody has filled in the page; the link is used up."""
        link = self._links[token]
        self._links[token] = link._replace(expires_at=0)
        self._accounts.set_status(link.account, status)
        self._accounts.link_returned(link.account, link.use_case)
