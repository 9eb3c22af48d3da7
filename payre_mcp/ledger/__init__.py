"""How money moves. Synchronous and exact: integers of micros, no I/O in the kernel, no clock that was not passed in.

`model` the words, `kernel` the only judge, `store` the port to a database, `writer` group commit, `audit` the proof.
"""
