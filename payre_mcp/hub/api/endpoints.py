"""The table of the API: every method and path with who may ask, what is sent and what is answered."""

from payre_mcp.gateway import schemas
from payre_mcp.hub.api import acts, consumer, facts, keys, payouts, seller
from payre_mcp.hub.api.call import LARGEST_BATCH, Endpoint, Nothing

_SETTLED = (schemas.SettledAnswer,)
_HELD = (schemas.HeldAnswer, schemas.SettledAnswer)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/batch", "developer", acts.batch, schemas.BatchRequest, (schemas.BatchAnswer,), largest=LARGEST_BATCH),
    Endpoint("POST", "/v1/holds", "developer", acts.hold, schemas.HoldRequest, _HELD, "optional"),
    Endpoint("POST", "/v1/holds/{hold}/capture", "developer", acts.capture, schemas.CaptureRequest, _SETTLED, "required"),
    Endpoint("POST", "/v1/holds/{hold}/void", "developer", acts.void, schemas.HoldAct, (schemas.HoldState,), "required"),
    Endpoint("POST", "/v1/holds/{hold}/extend", "developer", acts.extend, schemas.HoldAct, (schemas.HoldState,)),
    Endpoint("POST", "/v1/holds/{hold}/suspend", "developer", acts.suspend, schemas.HoldAct, (schemas.HoldState,)),
    Endpoint("POST", "/v1/holds/{hold}/resume", "developer", acts.resume, schemas.ResumeRequest, (schemas.HeldAnswer,)),
    Endpoint("POST", "/v1/charges", "developer", acts.charge, schemas.ChargeRequest, _SETTLED, "optional"),
    Endpoint("GET", "/v1/charges", "developer", seller.list_charges, facts.ChargesPage, (facts.ChargesAnswer,)),
    Endpoint(
        "POST", "/v1/charges/{charge}/refund", "developer", acts.refund,
        schemas.RefundRequest, (schemas.RefundAnswer,), "required",
    ),
    Endpoint("POST", "/v1/quotes", "developer", acts.quote, schemas.HoldRequest, (schemas.QuoteAnswer,)),
    Endpoint("POST", "/v1/keys/check", "developer", acts.check, schemas.KeyCheckRequest, (schemas.KeyCheckAnswer,)),
    Endpoint(
        "PUT", "/v1/servers/{server}/prices", "developer", seller.publish_prices,
        schemas.PriceListRequest, (schemas.PriceListAnswer,),
    ),
    Endpoint("POST", "/v1/tools", "developer", seller.publish_tool, facts.ToolRequest, (facts.ToolAnswer,)),
    Endpoint("GET", "/v1/tools", "developer", seller.list_tools, facts.ToolsPage, (facts.ToolsAnswer,)),
    Endpoint("GET", "/v1/earnings", "developer", seller.get_earnings, Nothing, (facts.EarningsAnswer,)),
    Endpoint("GET", "/v1/payouts", "developer", payouts.list_payouts, facts.Page, (payouts.PayoutsAnswer,)),
    Endpoint("GET", "/v1/balance", "consumer", consumer.get_balance, Nothing, (facts.BalanceAnswer,)),
    Endpoint("GET", "/v1/usage", "consumer", consumer.list_usage, facts.ChargesPage, (facts.UsageAnswer,)),
    Endpoint("POST", "/v1/checkout", "consumer", consumer.checkout, facts.AmountRequest, (facts.CheckoutAnswer,)),
    Endpoint("GET", "/v1/top-ups", "consumer", consumer.list_top_ups, facts.Page, (facts.TopUpsAnswer,)),
    Endpoint("GET", "/v1/top-ups/{top_up}", "consumer", consumer.get_top_up, Nothing, (facts.TopUpAnswer,)),
    Endpoint("POST", "/v1/top-up", "consumer", consumer.credit, facts.AmountRequest, (facts.CreditAnswer,)),
    Endpoint("POST", "/v1/receipts/verify", "either", consumer.verify_receipt, facts.ReceiptRequest, (facts.ReceiptAnswer,)),
    Endpoint("POST", "/v1/keys", "either", keys.create_key, facts.KeyRequest, (facts.NewKeyAnswer,)),
    Endpoint("GET", "/v1/keys", "either", keys.list_keys, Nothing, (facts.KeysAnswer,)),
    Endpoint("DELETE", "/v1/keys/{key}", "either", keys.revoke_key, Nothing, (facts.KeyAnswer,)),
    Endpoint("POST", "/v1/keys/{key}/rotate", "either", keys.rotate_key, facts.RotateRequest, (facts.NewKeyAnswer,)),
)  # fmt: skip
