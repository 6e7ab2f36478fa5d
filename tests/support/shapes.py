"""The type checker behind jaxtyping's import hook in the tests."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's annotations when it is called, but for `Self`, which beartype knows in whole classes only."""
    hints = getattr(function, "__annotations__", {})
    if Self in hints.values():
        function.__annotations__ = {name: Any if hint is Self else hint for name, hint in hints.items()}
    return _check(function)
