"""Connected accounts of the second API: recipients, who can be paid once they are onboarded."""

from collections.abc import Sequence
from typing import Literal

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid, missing
from payre_mcp.processors.fake_stripe.store import Store, iso, merged
from payre_mcp.processors.fake_stripe.wire import Json

Status = Literal["active", "pending", "restricted", "rejected"]

_WHY: dict[str, tuple[str, str]] = {
    "pending": ("determining_status", "no_resolution"),
    "restricted": ("requirements_past_due", "provide_info"),
    "rejected": ("rejected_other", "contact_stripe"),
}
_SHOWN_ALWAYS = (
    "id", "object", "applied_configurations", "closed", "contact_email", "created", "dashboard", "display_name", "livemode",
    "metadata",
)  # fmt: skip
_CAPABILITY = "stripe_balance.stripe_transfers"


class Accounts:
    """The connected accounts of one fake Stripe, with what each has there and at its bank."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self._balances: dict[str, int] = {}

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path = "/v2/core/accounts"
        return (
            ApiRoute("POST", path, "v2.core._account_create_params:AccountCreateParams", self.create),
            ApiRoute("GET", f"{path}/{{id}}", "v2.core._account_retrieve_params:AccountRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}/close", "v2.core._account_close_params:AccountCloseParams", self.close),
            ApiRoute("GET", "/v1/accounts/{id}", "_account_retrieve_params:AccountRetrieveParams", self.retrieve_first),
        )

    def create(self, params: Json) -> Json:
        """An account that still has to be onboarded."""
        configuration = params.get("configuration", {})
        if set(configuration) != {"recipient"}:
            raise invalid("The fake Stripe has recipient accounts only", "configuration")
        defaults = params.get("defaults", {})
        responsibilities = defaults.get("responsibilities", {})
        now = iso(self._store.now())
        account: Json = {
            "id": self._store.new_id("acct_"), "object": "v2.core.account", "applied_configurations": ["recipient"],
            "configuration": {"recipient": {"applied": True, "capabilities": _capabilities(configuration["recipient"])}},
            "closed": False,
            "contact_email": params.get("contact_email"), "created": now, "dashboard": params.get("dashboard", "none"),
            "display_name": params.get("display_name"), "identity": params.get("identity"), "livemode": False,
            "defaults": {**defaults, "responsibilities": {**responsibilities, "requirements_collector": "stripe"}},
            "metadata": merged({}, params.get("metadata")),
        }  # fmt: skip
        _require(account, due=True)
        self._store.add(account)
        self._balances[account["id"]] = 0
        self._thin("v2.core.account.created", account)
        return _shown(account, params.get("include", ()))

    def retrieve(self, params: Json, wanted: str) -> Json:
        """An account, with the parts that were asked for."""
        return _shown(self._store.get("v2.core.account", wanted), params.get("include", ()))

    def retrieve_first(self, _: Json, wanted: str) -> Json:
        """The account as the first API shows it."""
        return self._as_first(self._store.get("v2.core.account", wanted))

    def close(self, params: Json, wanted: str) -> Json:
        """An account that is paid no more."""
        account = self.get(wanted)
        if params.get("applied_configurations", ["recipient"]) != ["recipient"]:
            raise invalid("All configurations of the account must be named", "applied_configurations")
        if self._balances[wanted]:
            raise Refusal("The account has a balance, so it cannot be closed", code="account_balance_not_zero")
        account.update(closed=True, applied_configurations=[])
        self._thin("v2.core.account.closed", account)
        return _shown(account, ())

    def get(self, wanted: str, *, param: str = "id") -> Json:
        """An account that is not closed."""
        account = self._store.find(wanted)
        if account is None or account["object"] != "v2.core.account" or account["closed"]:
            raise missing("destination" if param == "destination" else "account", wanted, param=param)
        return account

    def can_be_paid(self, account: Json) -> bool:
        """Whether transfers may go there."""
        return _transfers(account).get("status") == "active"

    def set_status(self, account_id: str, status: Status) -> None:
        """Stripe has decided about an account."""
        account = self.get(account_id)
        capability = _transfers(account)
        if not capability:
            raise Refusal(f"Account {account_id} did not ask for transfers")
        changed = capability["status"] != status
        capability.update(status=status, status_details=_details(status))
        _require(account, due=status == "restricted")
        self._thin("v2.core.account[requirements].updated", account)
        if changed:
            type_ = "v2.core.account[configuration.recipient].capability_status_updated"
            self._thin(type_, account, data={"updated_capability": _CAPABILITY})
        self._events.emit("account.updated", self._as_first(account), account=account_id)

    def deauthorize(self, account_id: str) -> None:
        """The account's owner cuts it off from the platform."""
        account = self.get(account_id)
        account["closed"] = True
        application = {"id": "ca_test_payre", "object": "application", "name": "payre"}
        self._events.emit("account.application.deauthorized", application, account=account_id)

    def link_returned(self, account_id: str, use_case: str) -> None:
        """Somebody came back from the onboarding page."""
        data = {"account_id": account_id, "configurations": ["recipient"], "use_case": use_case}
        self._events.emit_thin("v2.core.account_link.returned", data=data, context=account_id)

    def balance(self, account_id: str) -> int:
        """What it has at Stripe, in cents."""
        return self._balances[account_id]

    def move(self, account_id: str, cents: int) -> None:
        """Money arrives at its balance, or leaves it."""
        self._balances[account_id] += cents

    def pay_out(self, account_id: str, *, paid: bool) -> None:
        """Its balance goes to its bank, which takes it or not."""
        amount = self._balances[account_id]
        payout: Json = {
            "id": self._store.new_id("po_"), "object": "payout", "amount": amount, "arrival_date": self._store.now(),
            "automatic": True, "created": self._store.now(), "currency": "usd", "description": "STRIPE PAYOUT",
            "failure_code": None if paid else "account_closed", "livemode": False, "metadata": {}, "method": "standard",
            "source_type": "card", "status": "paid" if paid else "failed", "type": "bank_account",
        }  # fmt: skip
        if paid:
            self._balances[account_id] = 0
        self._events.emit(f"payout.{payout['status']}", payout, account=account_id)

    def _thin(self, type_: str, account: Json, *, data: Json | None = None) -> None:
        related = (account["id"], account["object"], f"/v2/core/accounts/{account['id']}")
        self._events.emit_thin(type_, related=related, data=data, context=account["id"])

    def _as_first(self, account: Json) -> Json:
        active = self.can_be_paid(account)
        return {
            "id": account["id"], "object": "account", "capabilities": {"transfers": "active" if active else "inactive"},
            "charges_enabled": False, "country": _country(account),
            "default_currency": "usd", "details_submitted": active, "email": account["contact_email"],
            "metadata": account["metadata"], "payouts_enabled": active, "type": "express",
        }  # fmt: skip


def _capabilities(recipient: Json) -> Json:
    asked = recipient.get("capabilities", {}).get("stripe_balance", {}).get("stripe_transfers", {}).get("requested", False)
    if not asked:
        return {}
    return {"stripe_balance": {"stripe_transfers": {"status": "restricted", "status_details": _details("restricted")}}}


def _transfers(account: Json) -> Json:
    """Its capability to be paid; empty where it has none."""
    recipient = account["configuration"]["recipient"]
    return recipient["capabilities"].get("stripe_balance", {}).get("stripe_transfers", {})


def _country(account: Json) -> str:
    identity: Json = account["identity"] or {}
    return str(identity.get("country", "us")).upper()


def _details(status: str) -> Sequence[Json]:
    if status not in _WHY:
        return []
    code, resolution = _WHY[status]
    return [{"code": code, "resolution": resolution}]


def _require(account: Json, *, due: bool) -> None:
    entry = {
        "awaiting_action_from": "user", "description": "payout_method", "errors": [],
        "minimum_deadline": {"status": "past_due"}, "requested_reasons": [{"code": "routine_onboarding"}],
    }  # fmt: skip
    summary = {"minimum_deadline": {"status": "past_due", "time": None}} if due else {"minimum_deadline": None}
    account["requirements"] = {"entries": [entry] if due else [], "summary": summary}


def _shown(account: Json, include: Sequence[str]) -> Json:
    """What is told of an account: a part that was not asked for is null."""
    shown = {name: account[name] for name in _SHOWN_ALWAYS}
    for part in ("defaults", "identity", "requirements"):
        shown[part] = account[part] if part in include else None
    recipient = "configuration.recipient" in include and not account["closed"]
    shown["configuration"] = account["configuration"] if recipient else None
    return shown
