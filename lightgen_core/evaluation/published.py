"""Scores that papers print, with their sources, as data: the paper's tables and its peers (`published.yaml`)."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal, Self

from pydantic import Field, model_validator

from lightgen_core.config import Fraction, Positive, Section

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's categories in its own order; overall is their mean."""
_ROUNDING = 0.011
"""Most that a printed overall may differ from the mean of printed scores: both are rounded or cut to two digits."""


class Source(Section):
    """A paper's table or a page."""

    title: str
    url: str = Field(pattern="^https://")


class PeerRun(Section):
    """A model as `lightgen eval` runs it. steps, cfg: as its authors set them, or those of its pipeline."""

    source: str = Field(pattern="^(diffusers|endpoint):", description="the name that `lightgen eval` takes")
    steps: Positive | None = None
    cfg: float | None = Field(None, ge=0)
    settings: str | None = Field(None, description="source of steps and guidance")
    note: str = ""


class PeerModel(Section):
    """A model of the tables, which can be run, or the reason why not."""

    name: str
    run: PeerRun | None = None
    not_run: str = ""

    @model_validator(mode="after")
    def _run_or_reason(self) -> Self:
        if (self.run is None) == (not self.not_run):
            raise ValueError(f"{self.name}: found run {self.run} and not_run {self.not_run!r}; give one of them")
        return self


class PublishedRow(Section):
    """A row as printed. What no source says is None.

    params: billions; images: training images, millions; px: side of the evaluated pictures; rewritten: whether prompts
    were rewritten; scores: in the order of the table; misprint: what contradicts itself.
    """

    model: str
    name: str = ""
    params: float | None = Field(None, gt=0)
    images: float | None = Field(None, gt=0)
    px: Positive | None = None
    steps: Positive | None = None
    rewritten: bool | None = None
    sources: tuple[str, ...] = ()
    scores: tuple[Fraction, ...] = Field((), description="six, or none")
    overall: Fraction | None = None
    device_days: float | None = Field(None, gt=0)
    device: str = ""
    note: str = ""
    misprint: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if len(self.scores) not in (0, len(CATEGORIES)):
            raise ValueError(f"{self.model}: found {len(self.scores)} scores; give all {len(CATEGORIES)} or none")
        if (self.device_days is None) != (not self.device):
            raise ValueError(f"{self.model}: device_days and device go together")
        if self.scores and self.overall is not None:
            off = abs(sum(self.scores) / len(CATEGORIES) - self.overall) > _ROUNDING
            if off != bool(self.misprint):
                raise ValueError(
                    f"{self.model}: overall {self.overall} {'is not' if off else 'is'} the mean of {self.scores}; "
                    "correct a number, or say in `misprint` how the source contradicts itself"
                )
        return self


class PublishedTable(Section):
    """A table of rows that are scored by one benchmark. px, sources: of every row without its own, or besides them."""

    title: str
    benchmark: Literal["geneval"]
    px: Positive | None = None
    order: tuple[str, ...] = Field(description="categories in the order of the rows' scores")
    sources: tuple[str, ...] = ()
    note: str = ""
    rows: tuple[PublishedRow, ...] = Field(min_length=1)

    def scores(self, row: PublishedRow) -> dict[str, float | None]:
        """Return overall and the categories of a row, None where nothing is printed."""
        found: dict[str, float | None] = {"overall": row.overall}
        by_name = dict(zip(self.order, row.scores, strict=True)) if row.scores else {}
        return found | {name: by_name.get(name) for name in CATEGORIES}

    def sources_of(self, row: PublishedRow) -> tuple[str, ...]:
        """Return the names of a row's sources."""
        return (*self.sources, *row.sources)


class Published(Section):
    """All tables, the models of their rows, and the sources that both name."""

    sources: Mapping[str, Source]
    models: Mapping[str, PeerModel]
    tables: Mapping[str, PublishedTable]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        settings = [model.run.settings for model in self.models.values() if model.run and model.run.settings]
        used = {name for table in self.tables.values() for row in table.rows for name in table.sources_of(row)}
        if unknown := (used | set(settings)) - self.sources.keys():
            raise ValueError(f"sources {sorted(unknown)} are named, and not listed")
        if unknown := {row.model for table in self.tables.values() for row in table.rows} - self.models.keys():
            raise ValueError(f"models {sorted(unknown)} are named, and not listed")
        for name, table in self.tables.items():
            if sorted(table.order) != sorted(CATEGORIES):
                raise ValueError(f"table {name}: found the order {table.order}; expected each of {CATEGORIES} once")
            if bare := [row.model for row in table.rows if not table.sources_of(row)]:
                raise ValueError(f"table {name}: {bare} have no source")
        return self


@cache
def published() -> Published:
    """Return the tables of `published.yaml`."""
    import yaml

    text = resources.files("lightgen_core.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
