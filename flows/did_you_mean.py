"""The nearest right word to a mistyped one."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?", or nothing where no name is near."""
    near = difflib.get_close_matches(word, sorted(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
