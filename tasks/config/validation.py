"""Validation while a student trains: images put aside, and how often the loss on them is measured."""

from pydantic import Field

from lightgen_core.config import Positive, Section


class Validation(Section):
    """The loss of the averaged weights on images that pre-training never sees, at noise that is always the same."""

    rows: Positive = Field(
        256,
        description="images put aside, at least so many: of each caption that is chosen all, with every phrasing of "
        "its meaning; pairs and distil_head still see them",
    )
    every: Positive | None = Field(
        None, description="steps of a phase between two measurements, a multiple of log_every; none: checkpoint_every"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="which captions are put aside, and the noise; trainings of any seed share them"
    )
