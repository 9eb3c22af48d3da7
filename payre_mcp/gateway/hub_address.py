"""Where a hub is and who calls it: checked once, at start, with a sentence for whoever configured it."""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from payre_mcp.errors import InvalidApiKey, SettingsInvalid
from payre_mcp.keys import Role, parse_key


@dataclass(frozen=True)
class HubAddress:
    """A hub and the secret key of the developer who sells through it."""

    url: str
    """Without a slash at its end."""
    secret_key: str = field(repr=False)
    shown_key: str
    """`pyr_sk_test_...a1b2`"""

    @classmethod
    def parse(cls, url: str, secret_key: str | None) -> "HubAddress":
        """Check an address and a key.

        Raises:
            SettingsInvalid: The address is no https address (http is for this very machine), or the key is missing or
                is no developer's. The message repeats neither a key nor a password.
        """
        check_url(url)
        if not secret_key:
            raise SettingsInvalid(
                f"the hub {_shown(url)} wants your secret key: set PAYRE_SECRET_KEY (it starts with pyr_sk_), or give secret_key="
            )
        try:
            key = parse_key(secret_key)
        except InvalidApiKey:
            raise SettingsInvalid(
                "the secret key is damaged or none of Payre's; one starts with pyr_sk_: copy it again"
            ) from None
        if key.role != Role.DEVELOPER:
            raise SettingsInvalid(f"{key.shown} is no developer's secret key; a hub takes one that starts with pyr_sk_")
        return cls(url.rstrip("/"), key.text, key.shown)

    def path(self, *parts: str) -> str:
        """The address of `/v1/...`, each part escaped."""
        return "/".join([self.url, "v1", *(quote(part, safe="") for part in parts)])


def is_hub(url: str) -> bool:
    """Whether this is the address of a hub and not of a database."""
    return url.lower().startswith(("https://", "http://"))


def check_url(url: str) -> None:
    """Refuse what a key must not be sent to. Raises `SettingsInvalid`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SettingsInvalid("the hub's address cannot be read; write https://hub.example") from None
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise SettingsInvalid(f"the hub's address is https, a host and perhaps a path, and nothing else; not {_shown(url)}")
    if parts.scheme != "https" and not _is_loopback(host):
        raise SettingsInvalid(f"{_shown(url)} would carry keys in the clear; write https:// (http:// is for loopback alone)")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(url: str) -> str:
    """An address without what may be a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
