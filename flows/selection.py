"""Which stages a run may make: `only`, `from`, `until` and `refresh`, the same in the UI and on the command line."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from flows.distill import NAMES
from flows.load import UserError


@dataclass(frozen=True)
class Selection:
    """The stages that may run, and those to make again though they are done."""

    chosen: frozenset[str]
    refresh: frozenset[str]


def select(
    only: str | None = None, from_stage: str | None = None, until: str | None = None, refresh: Sequence[str] = ()
) -> Selection:
    """Validate stage names and turn them into a selection.

    Raises:
        UserError: an unknown stage, `only` with a range, an empty range, a refresh outside the selection.
    """
    for name in (only, from_stage, until, *refresh):
        if name is not None and name not in NAMES and not (name == "all" and name in refresh):
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"there is no stage {name!r}.{hint} Stages: {', '.join(NAMES)}.")
    if only and (from_stage or until):
        raise UserError("--only runs one stage; it does not go with --from or --until")
    first, last = NAMES.index(from_stage or only or NAMES[0]), NAMES.index(until or only or NAMES[-1])
    if first > last:
        raise UserError(
            f"--from {from_stage} comes after --until {until}: no stage is left. Order: {', '.join(NAMES)}."
        )
    chosen = frozenset(NAMES[first : last + 1])
    again = chosen if "all" in refresh else frozenset(refresh)
    if again - chosen:
        left_out, runs = ", ".join(sorted(again - chosen)), ", ".join(NAMES[first : last + 1])
        raise UserError(f"--refresh {left_out} names a stage that this run leaves out; it runs {runs}")
    return Selection(chosen, again)
