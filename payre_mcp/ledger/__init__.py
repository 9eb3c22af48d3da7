"""How money moves. Synchronous and exact: integers of micros, no I/O in the kernel, no clock that was not passed in.

`model` the words, `kernel` the only judge, `metering`, `spending` and `credit` what it judges prices, limits and free credit by,
`booking` what it writes, `store` the port to a database, `writer` group commit, `audit` the proof.
"""
