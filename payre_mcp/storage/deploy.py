"""What is done to a PostgreSQL database once, by whoever owns it: the rights of the role that serves, and spreading its tables.

Nothing here moves money, and no process that serves needs the rights for it.
"""

import re

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from payre_mcp.errors import InvalidRequest, LedgerInvalid
from payre_mcp.storage.migrate import VERSION_TABLE
from payre_mcp.storage.tables import METADATA

MONEY = ("account", "credit", "earning", "transfer", "hold", "usage_counter", "stored_result", "taking", "rolled_up")
"""The tables that `part` leads: a row and all that changes with it stay together."""

_RIGHTS = {
    "transfer": "select, insert",
    "hold": "select, insert, update, delete",
    "stored_result": "select, insert, delete",
    "lease": "select, insert, update, delete",
    "inbox_event": "select, insert, update, delete",
    "posting": "select",
    VERSION_TABLE: "select",
}
_OTHERS = "select, insert, update"


def role_script(role: str, schema: str = "public") -> str:
    """SQL that gives a role what serving needs, and no more: it can add to the journal and change nothing in it.

    Raises:
        InvalidRequest: That is no plain name.
    """
    for name in (role, schema):
        if re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) is None:
            raise InvalidRequest("a role or a schema is named by lower-case letters, digits and underscores; nothing was changed")
    tables = {name: _RIGHTS.get(name, _OTHERS) for name in (*sorted(METADATA.tables), *_RIGHTS)}
    grants = (f"grant {rights} on {schema}.{table} to {role};" for table, rights in tables.items())
    revoked = (f"revoke all on {schema}.{table} from public, {role};" for table in tables)
    return "\n".join((
        f"do $$ begin create role {role} login; exception when duplicate_object then null; end $$;",
        f"grant usage on schema {schema} to {role};",
        *revoked,
        *grants,
        "",
    ))  # fmt: skip


def distribute(engine: sa.Engine, *, shards: int) -> list[str]:
    """Spread the money tables over a Citus cluster by `part`, side by side; answers the tables that were spread now.

    Rows that are there move along. The journal's trigger goes, which Citus does not take: the rights of the serving role
    keep it append-only from then on. Stop what serves before, and start it after.

    Raises:
        LedgerInvalid: The database has no Citus.
    """
    try:
        with engine.begin() as connection:
            if connection.execute(sa.text("select to_regclass('pg_dist_partition')")).scalar() is None:
                raise LedgerInvalid("this database has no Citus: create extension citus, on the coordinator. Nothing was changed")
            known = connection.execute(sa.text("select logicalrelid::text from pg_dist_partition")).scalars()
            spread = set(known)
            todo = [table for table in MONEY if table not in spread]
            if "transfer" in todo:
                connection.execute(sa.text("drop trigger if exists transfer_append_only on transfer"))
            for table in todo:
                beside = "none" if table == MONEY[0] else MONEY[0]
                count = {"shards": shards} if beside == "none" else {}
                arguments = f"'{table}', 'part', colocate_with => '{beside}'" + (", shard_count => :shards" if count else "")
                connection.execute(sa.text(f"select create_distributed_table({arguments})"), count)
            return todo
    except DBAPIError as error:
        said = str(error.orig).splitlines()
        raise LedgerInvalid(f"the tables cannot be spread: {said[0] if said else 'refused'}. Nothing was changed") from error
