"""Multi-row VALUES lists: many rows in one statement, in a few sizes, so that prepared statements are used again."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

Row = TypeVar("Row")


def padded_size(many: int) -> int:
    """The power of two that holds so many rows; 0 for none."""
    return 1 << (many - 1).bit_length() if many else 0


def pieces(rows: Sequence[Row], most: int) -> Iterator[Sequence[Row]]:
    """The rows in order, cut into lengths that are powers of two: for statements that padding would disturb."""
    start = 0
    while start < len(rows):
        size = min(1 << (len(rows) - start).bit_length() - 1, most)
        yield rows[start : start + size]
        start += size


@lru_cache(maxsize=128)
def question_marks(width: int, size: int) -> str:
    """`(values (?, ?), ...)` for SQLite, whose columns are then column1, column2 ..."""
    row = f"({', '.join('?' * width)})"
    return f"(values {', '.join([row] * size)})"


@lru_cache(maxsize=512)
def numbered(width: int, size: int) -> str:
    """`values ($1, $2), ($3, $4) ...` for PostgreSQL."""
    rows = (f"({', '.join(f'${1 + row * width + place}' for place in range(width))})" for row in range(size))
    return f"values {', '.join(rows)}"
