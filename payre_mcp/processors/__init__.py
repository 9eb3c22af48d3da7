"""Money in and out through a payment processor."""
