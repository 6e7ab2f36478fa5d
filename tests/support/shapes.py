"""The type checker behind jaxtyping's import hook in the tests: shapes and dtypes of arrays."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the annotations of arrays when a function is called; tests hand in doubles of other types."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint if "jaxtyping." in repr(hint) else Any for name, hint in hints.items()}
    return _check(function)
