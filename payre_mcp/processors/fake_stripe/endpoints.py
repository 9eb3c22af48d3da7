"""Webhook endpoints and event destinations: who wants which events, and with which secret they are signed."""

from collections.abc import Sequence
from urllib.parse import urlsplit

import stripe

from payre_mcp.processors.fake_stripe.door import ApiRoute
from payre_mcp.processors.fake_stripe.listing import page
from payre_mcp.processors.fake_stripe.refusals import Refusal, invalid
from payre_mcp.processors.fake_stripe.store import Store, iso, merged
from payre_mcp.processors.fake_stripe.wire import Json

_KINDS = ("webhook_endpoint", "v2.core.event_destination")


class Endpoints:
    """The addresses that events are sent to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._urls: dict[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._of_accounts: dict[str, bool] = {}
        """Whether it hears of connected accounts, or of the platform."""

    def routes(self) -> Sequence[ApiRoute]:
        """What is answered here."""
        path, module = "/v1/webhook_endpoints", "_webhook_endpoint"
        destinations = "/v2/core/event_destinations"
        return (
            ApiRoute("POST", path, f"{module}_create_params:WebhookEndpointCreateParams", self.create),
            ApiRoute("GET", path, f"{module}_list_params:WebhookEndpointListParams", self.list),
            ApiRoute("POST", f"{path}/{{id}}", f"{module}_update_params:WebhookEndpointUpdateParams", self.update),
            ApiRoute("DELETE", f"{path}/{{id}}", f"{module}_delete_params:WebhookEndpointDeleteParams", self.delete),
            ApiRoute("POST", destinations, _v2("create"), self.create_destination),
            ApiRoute("GET", destinations, _v2("list"), self.list_destinations),
        )

    def create(self, params: Json) -> Json:
        """A webhook endpoint; its secret is told this once."""
        endpoint: Json = {
            "id": self._store.new_id("we_"), "object": "webhook_endpoint", "api_version": params.get("api_version"),
            "application": None, "created": self._store.now(), "description": params.get("description") or None,
            "enabled_events": _events(params), "livemode": False, "metadata": merged({}, params.get("metadata")),
            "status": "enabled", "url": _address(params["url"], "url"),
        }  # fmt: skip
        self._store.add(endpoint)
        self._connect(endpoint["id"], endpoint["url"], of_accounts=params.get("connect", False))
        return {**endpoint, "secret": self._secrets[endpoint["id"]]}

    def list(self, params: Json) -> Json:
        """Webhook endpoints, newest first."""
        return page(self._store.newest("webhook_endpoint"), params, "/v1/webhook_endpoints")

    def update(self, params: Json, wanted: str) -> Json:
        """Another address, other events, on or off."""
        endpoint = self._store.get("webhook_endpoint", wanted)
        if "url" in params:
            endpoint["url"] = self._urls[wanted] = _address(params["url"], "url")
        if "enabled_events" in params:
            endpoint["enabled_events"] = _events(params)
        if "disabled" in params:
            endpoint["status"] = "disabled" if params["disabled"] else "enabled"
        if "description" in params:
            endpoint["description"] = params["description"] or None
        endpoint["metadata"] = merged(endpoint["metadata"], params.get("metadata"))
        return endpoint

    def delete(self, _: Json, wanted: str) -> Json:
        """Nothing is sent there any more."""
        self._store.drop(self._store.get("webhook_endpoint", wanted))
        return {"id": wanted, "object": "webhook_endpoint", "deleted": True}

    def create_destination(self, params: Json) -> Json:
        """An event destination; its secret is told this once, if it was asked for."""
        if params["type"] != "webhook_endpoint" or "webhook_endpoint" not in params:
            raise Refusal("The fake Stripe sends to webhook endpoints only", param="type", executed=False)
        now = iso(self._store.now())
        destination: Json = {
            "id": self._store.new_id("ed_test_"), "object": "v2.core.event_destination", "created": now, "updated": now,
            "description": params.get("description", ""), "enabled_events": _events(params), "livemode": False,
            "event_payload": params["event_payload"], "events_from": params.get("events_from", ["@self"]),
            "metadata": params.get("metadata", {}), "name": params["name"], "status": "enabled", "status_details": None,
            "snapshot_api_version": params.get("snapshot_api_version"), "type": "webhook_endpoint",
        }  # fmt: skip
        self._store.add(destination)
        url = _address(params["webhook_endpoint"]["url"], "webhook_endpoint[url]")
        self._connect(destination["id"], url, of_accounts="@accounts" in destination["events_from"])
        shown = {"url": url, "signing_secret": self._secrets[destination["id"]]}
        include = params.get("include", ())
        return {**destination, "webhook_endpoint": {key: shown[key] for key in shown if f"webhook_endpoint.{key}" in include}}

    def list_destinations(self, params: Json) -> Json:
        """Event destinations, newest first."""
        with_url = "webhook_endpoint.url" in params.get("include", ())
        things = self._store.newest("v2.core.event_destination")
        shown = [{**each, "webhook_endpoint": {"url": self._urls[each["id"]]} if with_url else None} for each in things]
        return {"data": shown, "next_page_url": None}

    def wanted(self, type_: str, *, thin: bool, of_account: bool) -> Sequence[str]:
        """The endpoints that want such an event, oldest first."""
        things = [each for kind in _KINDS for each in reversed(self._store.newest(kind))]
        return [
            each["id"]
            for each in things
            if each["status"] == "enabled"
            and (each.get("event_payload") == "thin") == thin
            and of_account == self._of_accounts[each["id"]]
            and {type_, "*"} & set(each["enabled_events"])
        ]

    def url(self, endpoint: str) -> str | None:
        """Where it is, if it still is."""
        thing = self._store.find(endpoint)
        if thing is None or thing["status"] != "enabled":
            return None
        return self._urls[endpoint]

    def version(self, endpoint: str) -> str:
        """The version in which it is told of objects."""
        thing = self._store.find(endpoint) or {}
        return thing.get("api_version") or thing.get("snapshot_api_version") or stripe.api_version

    def secret(self, endpoint: str) -> str:
        """What its events are signed with."""
        return self._secrets[endpoint]

    def _connect(self, endpoint: str, url: str, *, of_accounts: bool) -> None:
        self._urls[endpoint], self._secrets[endpoint] = url, self._store.new_id("whsec_")
        self._of_accounts[endpoint] = of_accounts


def _v2(verb: str) -> str:
    return f"v2.core._event_destination_{verb}_params:EventDestination{verb.capitalize()}Params"


def _events(params: Json) -> Sequence[str]:
    if not params["enabled_events"]:
        raise invalid("Invalid array: enabled_events needs an event", "enabled_events", code="parameter_invalid_empty")
    return list(params["enabled_events"])


def _address(url: str, param: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise invalid(f"Invalid URL: {url[:200]}", param, code="url_invalid")
    return url
