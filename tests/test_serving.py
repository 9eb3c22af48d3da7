"""`serve()` refuses what would be unsafe before anything is started. That it serves stands in server/test_transports.py."""

import pytest

from payre_mcp import PaidMCPServer, serve


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "pay.example", ""])
def test_a_public_host_needs_to_say_by_which_names_it_is_called(host: str) -> None:
    """Without them the SDK's protection against DNS rebinding is off."""
    with pytest.raises(ValueError, match="needs allowed_hosts"):
        serve(PaidMCPServer("shop"), "streamable-http", host=host)
