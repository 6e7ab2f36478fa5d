"""The recipe's section of the mean over rounds of preference tuning."""

from pydantic import Field

from lightgen_core.config import Positive, Section


class Average(Section):
    """The mean of the students of the rounds of preference tuning, of the control's too."""

    rounds: Positive | None = Field(None, description="last rounds that are averaged, at most; none: all")
