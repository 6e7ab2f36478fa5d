"""The section dedup of a recipe: the core's, and the filters before it."""

from pydantic import Field

from lightgen_core.dedup.config import DedupConfig
from lightgen_core.filters.config import ImageFilters


class Dedup(DedupConfig):
    """Filters of images: near duplicates and, on request, those of low text-image score or quality."""

    filters: ImageFilters | None = Field(
        None,
        description="filters by pixels, heads and a judge; keep.parquet then also tells the value and the threshold of "
        "each drop; none: no such filter",
        exclude_if=lambda filters: filters is None,  # keys of recipes without filters stay
    )
