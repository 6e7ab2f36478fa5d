"""Counts with their nouns."""


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun: 1 row, 0 rows, 1,200 rows."""
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"
