"""Summing up what developers took, so that asking for it need not read a journal that only grows.

Rows are summed up once they are two days old: a capture that could not be written is tried again under its old id, and must
not slip in behind. Of several who sum up the same rows, one succeeds.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from payre_mcp.clock import US_PER_S
from payre_mcp.gateway.statement import origin_of
from payre_mcp.ids import first_id_at
from payre_mcp.ledger.model import Kind
from payre_mcp.storage.readers import Reader

AGE_US = 48 * 3600 * US_PER_S
"""How old a row is before it is summed up."""

_CHUNK = 5_000
_SUMS = ("charges", "gross_micros", "fee_micros", "refunded_micros", "fee_refunded_micros")
_ROWS = f"""
select t.id, t.kind, t.developer_id, coalesce(c.detail, t.detail), t.tool, t.amount_micros, t.credit_micros, t.fee_micros
  from transfer t left join transfer c on t.kind = 6 and c.part = t.part and c.id = t.ref_id
 where t.part = ? and t.id > ? and t.id < ? and t.kind in (1, 3, 6) order by t.id limit {_CHUNK}
"""
_STEP = sa.text(
    "insert into rolled_up (part, last_id) values (:part, :last) "
    "on conflict (part) do update set last_id = excluded.last_id where rolled_up.last_id = :before"
)
_ADD = sa.text(
    f"insert into taking (part, developer_id, origin, kind, tool, {', '.join(_SUMS)}) "
    f"values (:part, :developer_id, :origin, :kind, :tool, {', '.join(f':{name}' for name in _SUMS)}) "
    "on conflict (part, developer_id, origin, kind, tool) do update set "
    + ", ".join(f"{name} = taking.{name} + excluded.{name}" for name in _SUMS)
)


def roll_up(engine: sa.Engine, reader: Reader, now_us: int) -> int:
    """Sum up every part as far as its rows are old enough; answers how many rows that were."""
    until = first_id_at(max(now_us - AGE_US, 0))
    return sum(_roll_up(engine, reader, part, until) for part in range(reader.parts))


def _roll_up(engine: sa.Engine, reader: Reader, part: int, until: int) -> int:
    done = 0
    while True:
        found = reader.rows("select last_id from rolled_up where part = ?", part)
        before = found[0][0] if found else -1
        rows = reader.rows(_ROWS, part, before, until)
        if not rows:
            return done
        with engine.begin() as connection:
            step = connection.execute(_STEP, {"part": part, "last": rows[-1][0], "before": before})
            if step.rowcount != 1:
                return done  # somebody else is at it
            connection.execute(_ADD, _summed(part, rows))
        done += len(rows)


def _summed(part: int, rows: Iterable[Any]) -> list[dict[str, object]]:
    sums: defaultdict[tuple[int, str, str, str], list[int]] = defaultdict(lambda: [0] * len(_SUMS))
    for _, kind, developer_id, detail, tool, amount, credit, fee in rows:
        facts = json.loads(detail)
        into = sums[developer_id, origin_of(facts["server"]), facts["kind"][:1], tool]
        paid = max(amount - credit, 0)
        change = (0, 0, 0, paid, fee) if kind == Kind.REFUND else (1, paid, fee, 0, 0)
        for place, each in enumerate(change):
            into[place] += each
    keys = ("developer_id", "origin", "kind", "tool")
    return [
        {"part": part, **dict(zip(keys, key, strict=True)), **dict(zip(_SUMS, sums[key], strict=True))} for key in sorted(sums)
    ]
