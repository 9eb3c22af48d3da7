"""The webhook endpoints at Stripe: made where they are missing, woken and completed where they are there."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import stripe
from pydantic import AliasPath, Field

from payre_mcp.processors.base import Endpoint, WebhookEndpoint
from payre_mcp.processors.stripe_answers import answer, whole_list
from payre_mcp.processors.stripe_reading import REFERENCE, Answer, read
from payre_mcp.processors.stripe_webhooks import EVENTS

_NAME = "Payre"
_SECRET, _URL = "webhook_endpoint.signing_secret", "webhook_endpoint.url"


class _Known(Answer):
    id: str
    status: str
    enabled_events: list[str]

    def lacks(self, wanted: Sequence[str]) -> list[str]:
        return [] if "*" in self.enabled_events else [kind for kind in wanted if kind not in self.enabled_events]

    def trouble(self, endpoint: Endpoint, version: str) -> str:
        """Why it does not bring all that it should, at the version that we read."""
        if self.status != "enabled":
            return "it is disabled: nothing is sent, and nothing is tried again"
        if missing := self.lacks(EVENTS[endpoint]):
            return f"it is not told of {', '.join(missing)}"
        return f"it sends version {version}, and we read {stripe.api_version}" if version not in {"", stripe.api_version} else ""


class _Snapshots(_Known):
    url: str
    secret: str | None = None
    api_version: str | None = None
    metadata: dict[str, str] | None = None

    def as_endpoint(self, endpoint: Endpoint) -> WebhookEndpoint:
        version = self.api_version or ""
        return WebhookEndpoint(endpoint, self.id, self.url, self.secret or "", version, self.trouble(endpoint, version))


class _Thin(_Known):
    name: str = ""
    url: str | None = Field(None, validation_alias=AliasPath("webhook_endpoint", "url"))
    secret: str | None = Field(None, validation_alias=AliasPath("webhook_endpoint", "signing_secret"))

    def as_endpoint(self, url: str) -> WebhookEndpoint:
        return WebhookEndpoint("thin", self.id, url, self.secret or "", "", self.trouble("thin", ""))


async def set_up(client: stripe.StripeClient, urls: Mapping[Endpoint, str]) -> list[WebhookEndpoint]:
    """An endpoint for each address, found by it; see `Processor.set_up`."""
    return [
        await (_set_up_thin(client, url) if endpoint == "thin" else _set_up_snapshots(client, endpoint, url))
        for endpoint, url in urls.items()
    ]


async def find(client: stripe.StripeClient) -> list[WebhookEndpoint]:
    """The endpoints that `set_up` made; see `Processor.find_endpoints`."""
    snapshots = [read(_Snapshots, each) for each in await whole_list(client.v1.webhook_endpoints.list_async({"limit": 100}))]
    thin = [read(_Thin, each) for each in await whole_list(client.v2.core.event_destinations.list_async({"include": [_URL]}))]
    ours = ((each, (each.metadata or {}).get(REFERENCE)) for each in snapshots)
    return [
        *(each.as_endpoint(cast("Endpoint", name)) for each, name in ours if name in EVENTS),
        *(each.as_endpoint(each.url or "") for each in thin if each.name == _NAME),
    ]


async def _set_up_snapshots(client: stripe.StripeClient, endpoint: Endpoint, url: str) -> WebhookEndpoint:
    service, wanted = client.v1.webhook_endpoints, EVENTS[endpoint]
    for found in [read(_Snapshots, each) for each in await whole_list(service.list_async({"limit": 100}))]:
        if found.url == url:
            if found.status != "enabled" or found.lacks(wanted):
                every = cast("list[Any]", [*found.enabled_events, *found.lacks(wanted)])
                await answer(service.update_async(found.id, {"enabled_events": every, "disabled": False}))
            return found.as_endpoint(endpoint)
    made = await answer(
        service.create_async(
            {
                "url": url,
                "enabled_events": cast("list[Any]", list(wanted)),
                "api_version": cast("Any", stripe.api_version),
                "connect": endpoint == "connect",
                "metadata": {REFERENCE: endpoint},
            }
        )
    )
    return read(_Snapshots, made).as_endpoint(endpoint)


async def _set_up_thin(client: stripe.StripeClient, url: str) -> WebhookEndpoint:
    service, wanted = client.v2.core.event_destinations, EVENTS["thin"]
    for found in [read(_Thin, each) for each in await whole_list(service.list_async({"include": [_URL]}))]:
        if found.url == url:
            if missing := found.lacks(wanted):
                await answer(service.update_async(found.id, {"enabled_events": [*found.enabled_events, *missing]}))
            if found.status != "enabled":
                await answer(service.enable_async(found.id))
            return found.as_endpoint(url)
    made = await answer(
        service.create_async(
            {
                "name": _NAME,
                "type": "webhook_endpoint",
                "event_payload": "thin",
                "enabled_events": list(wanted),
                "events_from": ["@accounts"],
                "webhook_endpoint": {"url": url},
                "include": [_SECRET, _URL],
            }
        )
    )
    return read(_Thin, made).as_endpoint(url)
