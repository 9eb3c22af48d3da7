"""Leases: of several processes one does a piece of work, until it stops saying that it does."""

from typing import Any

_TAKE = """
insert into lease (name, holder, until_us) values ($1, $2, (extract(epoch from clock_timestamp()) * 1000000)::bigint + $3)
on conflict (name) do update set holder = excluded.holder, until_us = excluded.until_us
 where lease.holder = excluded.holder or lease.until_us < excluded.until_us - $3
returning holder
"""


def take_lease(connection: Any, name: str, holder: str, seconds: float) -> bool:
    """Take a lease that nobody holds, or hold on to it; False where another process has it. By the database's time."""
    return connection.execute(_TAKE, [name, holder, int(seconds * 1_000_000)]).fetchone() is not None


def release_leases(connection: Any, holder: str) -> None:
    """Leave the work to the others, at once."""
    connection.execute("delete from lease where holder = $1", [holder])
