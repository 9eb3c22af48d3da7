"""`payre dev`: a paid server, its wallet and its pages on loopback, in one process, over one test ledger."""
