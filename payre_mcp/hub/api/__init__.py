"""The hub's API under `/v1`: a table of endpoints, the handlers behind it, and what every request passes on its way."""
