"""The choice of stages: `only`, `from`, `until` and `refresh`, in the UI and on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.did_you_mean import did_you_mean
from flows.distill import ALL_NAMES
from flows.errors import UserError


@dataclass(frozen=True)
class Selection:
    """The stages that may run, and those to make again though they are done."""

    chosen: frozenset[str]
    refresh: frozenset[str]


def select(
    only: str | None = None, from_stage: str | None = None, until: str | None = None, refresh: Sequence[str] = ()
) -> Selection:
    """Return the selection. Raises UserError for an unknown stage, an empty range, or a refresh outside of it."""
    for name in (only, from_stage, until, *refresh):
        if name is not None and not (name == "all" and name in refresh):
            require_stage(name)
    if only and (from_stage or until):
        raise UserError("--only runs one stage; it does not go with --from or --until")
    first, last = ALL_NAMES.index(from_stage or only or ALL_NAMES[0]), ALL_NAMES.index(until or only or ALL_NAMES[-1])
    if first > last:
        raise UserError(
            f"--from {from_stage} comes after --until {until}: no stage is left. Order: {', '.join(ALL_NAMES)}."
        )
    chosen = frozenset(ALL_NAMES[first : last + 1])
    again = chosen if "all" in refresh else frozenset(refresh)
    if again - chosen:
        left_out, runs = ", ".join(sorted(again - chosen)), ", ".join(ALL_NAMES[first : last + 1])
        raise UserError(f"--refresh {left_out} names a stage that this run leaves out; it runs {runs}")
    return Selection(chosen, again)


def require_stage(name: str) -> None:
    """Raise UserError, with the nearest right name, where there is no stage of this name."""
    if name not in ALL_NAMES:
        raise UserError(f"there is no stage {name!r}.{did_you_mean(name, ALL_NAMES)} Stages: {', '.join(ALL_NAMES)}.")
