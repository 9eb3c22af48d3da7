"""The `payre` command. Only signatures load at start; each command's module loads when it runs, so help stays quick."""

from payre_mcp.cli.app import main

__all__ = ["main"]
