"""What a metered server and a wallet talk to. `base` the ports, `local` the ledger in this process."""
