"""The few private names of the MCP SDK that we look at, in one place. All are read, none is patched."""

from typing import Any

from mcp.server.mcpserver import MCPServer
from pydantic import ValidationError


class Host:
    """The server that is metered, seen from the seam."""

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server

    @property
    def name(self) -> str:
        """The server's name."""
        return self._server.name

    def has_tool(self, name: str) -> bool:
        """Whether this tool is registered."""
        return self._tool(name) is not None

    def accepts(self, name: str, arguments: dict[str, Any]) -> bool:
        """Whether the tool will take these arguments, by its own validator (a JSON Schema check is not the same).

        A validator that crashes counts as taking them: the call then runs, fails, and is not charged.
        """
        try:
            self._tool(name).fn_metadata.validate_arguments(arguments)
        except ValidationError:
            return False
        except Exception:  # noqa: BLE001 - whatever the author's validator raises, the SDK reports it better
            return True
        return True

    def info(self) -> dict[str, Any]:
        """The `serverInfo` stamp of this server's results."""
        return self._server._lowlevel_server.server_info_stamp  # pyright: ignore[reportPrivateUsage]

    def _tool(self, name: str) -> Any:
        return self._server._tool_manager.get_tool(name)  # pyright: ignore[reportPrivateUsage]
