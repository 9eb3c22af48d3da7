"""The MCP seam. `middleware` meters calls, `extension` is its public face, `paid_server` the server class over both."""
