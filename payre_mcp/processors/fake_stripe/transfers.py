"""Transfers: money of the platform goes to a connected account, and back by a reversal."""

from collections.abc import Sequence

from payre_mcp.processors.fake_stripe.accounts import Accounts
from payre_mcp.processors.fake_stripe.balance import Balance
from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.events import Events
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store, merged
from payre_mcp.processors.fake_stripe.wire import Json


class Transfers:
    """The transfers of one fake Stripe."""

    def __init__(self, store: Store, events: Events, balance: Balance, accounts: Accounts) -> None:
        self._store, self._events, self._balance, self._accounts = store, events, balance, accounts

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/transfers", "_transfer"
        reversals, reversal = f"{path}/{{id}}/reversals", "_transfer_reversal_create_params:TransferReversalCreateParams"
        return (
            ApiRoute("POST", path, f"{module}_create_params:TransferCreateParams", self.create),
            ApiRoute("GET", path, f"{module}_list_params:TransferListParams", self.list),
            ApiRoute("GET", f"{path}/{{id}}", f"{module}_retrieve_params:TransferRetrieveParams", self.retrieve),
            ApiRoute("POST", f"{path}/{{id}}", f"{module}_update_params:TransferUpdateParams", self.update),
            ApiRoute("POST", reversals, reversal, self.reverse),
        )

    def create(self, params: Json) -> Json:
        """Money out of the available balance to a connected account."""
        amount = params.get("amount", 0)
        if amount <= 0:
            raise invalid("This value must be greater than or equal to 1.", "amount", code="parameter_invalid_integer")
        if params["currency"] != "usd":
            raise invalid(f"Invalid currency: {params['currency']}. The fake Stripe knows usd.", "currency")
        if "source_transaction" in params:
            raise invalid("The fake Stripe transfers out of the balance, never out of one charge", "source_transaction")
        account = self._accounts.get(params["destination"], param="destination")
        if not self._accounts.can_be_paid(account):
            message = "Your destination account needs to have at least one of the following capabilities enabled: transfers"
            raise Refusal(message, code="insufficient_capabilities_for_transfer")
        if self._balance.available() < amount:
            raise Refusal("You have insufficient available funds in your Stripe account.", code="balance_insufficient")
        return self._send(amount, account["id"], params)

    def reverse(self, params: Json, wanted: str) -> Json:
        """Money back, up to what the account still has."""
        transfer = self._store.get("transfer", wanted)
        rest = transfer["amount"] - transfer["amount_reversed"]
        amount = params.get("amount", rest)
        if rest <= 0:
            raise Refusal("This transfer has already been fully reversed.", code="transfer_already_reversed")
        if not 0 < amount <= rest:
            raise invalid(f"Reversal amount must be 1 to {rest}", "amount", code="parameter_invalid_integer")
        if self._accounts.balance(transfer["destination"]) < amount:
            raise Refusal("The connected account does not have enough funds for this reversal.", code="balance_insufficient")
        return self._reverse(transfer, amount, params)

    def list(self, params: Json) -> Json:
        """Transfers, newest first."""
        return page(self._store.newest("transfer"), params, "/v1/transfers", by=("destination", "transfer_group"))

    def retrieve(self, _: Json, wanted: str) -> Json:
        """A transfer."""
        return self._store.get("transfer", wanted)

    def update(self, params: Json, wanted: str) -> Json:
        """A transfer with other metadata."""
        transfer = self._store.get("transfer", wanted)
        transfer["metadata"] = merged(transfer["metadata"], params.get("metadata"))
        transfer["description"] = params.get("description", transfer["description"])
        self._events.emit("transfer.updated", transfer)
        return transfer

    def _send(self, amount: int, account_id: str, params: Json) -> Json:
        transfer_id = self._store.new_id("tr_")
        line = self._balance.book("transfer", -amount, transfer_id)
        transfer: Json = {
            "id": transfer_id, "object": "transfer", "amount": amount, "amount_reversed": 0, "balance_transaction": line["id"],
            "created": self._store.now(), "currency": "usd", "description": params.get("description"), "destination": account_id,
            "destination_payment": self._store.new_id("py_"), "livemode": False, "metadata": merged({}, params.get("metadata")),
            "reversals": {"object": "list", "data": [], "has_more": False, "url": f"/v1/transfers/{transfer_id}/reversals"},
            "reversed": False, "source_transaction": None, "source_type": "card", "transfer_group": params.get("transfer_group"),
        }  # fmt: skip
        self._store.add(transfer)
        self._accounts.move(account_id, amount)
        self._events.emit("transfer.created", transfer)
        return transfer

    def _reverse(self, transfer: Json, amount: int, params: Json) -> Json:
        reversal_id = self._store.new_id("trr_")
        line = self._balance.book("transfer_refund", amount, reversal_id)
        reversal: Json = {
            "id": reversal_id, "object": "transfer_reversal", "amount": amount, "balance_transaction": line["id"],
            "created": self._store.now(), "currency": "usd", "destination_payment_refund": None,
            "metadata": merged({}, params.get("metadata")), "source_refund": None, "transfer": transfer["id"],
        }  # fmt: skip
        self._store.add(reversal)
        self._accounts.move(transfer["destination"], -amount)
        transfer["amount_reversed"] += amount
        transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
        transfer["reversals"]["data"].insert(0, reversal)
        self._events.emit("transfer.reversed", transfer)
        return reversal
