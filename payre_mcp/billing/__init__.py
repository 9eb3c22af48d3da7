"""What the outside world does to the ledger: top-ups by card, recharges, refunds, disputes, payouts.

Three rules make it exact. Our own row stands before the processor is asked, and names the act to it. Nothing is believed
that the processor did not say when asked: news only says what to ask for. And money is booked under a key, once, before
the row says that it was.
"""
