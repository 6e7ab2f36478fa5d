"""The manifest: the mark that an artifact is done, and its lineage."""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from storage.cost import Cost
from storage.plural import pluralize

FORMAT_VERSION = 4
"""4: `cost`. 3: a file has an `address` and `reused` rows. 2: `figures` are called `metrics`, a file's `place`
`stored_as`. Older versions are still read."""
MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """One file of an artifact: its size, hash and counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="path inside the artifact, with forward slashes")
    rows: int = Field(ge=0, description="rows of a table; 0 for other files")
    bytes: int = Field(ge=0, description="size, bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of the content")
    counts: dict[str, int] = Field(default_factory=dict, description="further counts, summed in the manifest")
    address: str | None = Field(
        None,
        exclude_if=lambda address: address is None,
        description="hash of all that decides the content; a file of the same address is taken instead of made",
    )
    reused: int = Field(
        0, ge=0, exclude_if=lambda rows: not rows, description="rows that came from earlier artifacts, not made anew"
    )
    stored_as: str | None = Field(
        None,
        validation_alias=AliasChoices("stored_as", "place"),  # format version 1
        exclude_if=lambda path: path is None,
        description="path inside the artifact where the file lies; left out: at its name",
    )

    @property
    def path(self) -> str:
        """Path of the file inside the artifact."""
        return self.stored_as or self.name


class Manifest(BaseModel):
    """Stage, key, inputs and files of an artifact.

    `timings`, `device_seconds`, `cost`, `models`, `software`, `host`, `created_at` and the files' `reused` describe the
    run that made it and may differ between two runs of one key; everything else is a function of the key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    stage: str
    key: str
    stage_version: int = Field(ge=1)
    config: dict[str, Any] = Field(description="the part of the recipe that entered the key")
    inputs: dict[str, str] = Field(description="key of each input artifact, by stage: the lineage")
    files: tuple[FileEntry, ...]
    counts: dict[str, int] = Field(description="rows, and whatever else the stage counts")
    metrics: dict[str, Any] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("metrics", "figures"),  # format version 1
        description="what the stage measured of its output",
    )
    timings: dict[str, float] = Field(description="wall-clock seconds, over all runs that contributed")
    device_seconds: float = Field(ge=0, description="seconds of all devices; before format version 4 with `timings`")
    cost: Cost | None = Field(
        None, exclude_if=lambda cost: cost is None, description="what was spent on it; none before format version 4"
    )
    models: dict[str, str | None] = Field(default_factory=dict, description="commit of each hub model, if cached here")
    software: dict[str, str] = Field(description="versions of what made the bytes")
    host: dict[str, str] = Field(description="machine and device")
    created_at: str = Field(description="UTC, ISO 8601")

    @property
    def reused(self) -> int:
        """Rows that came from earlier artifacts."""
        return sum(file.reused for file in self.files)

    @property
    def summary(self) -> str:
        """Rows and files, such as '480 rows in 8 files'."""
        return f"{pluralize(self.counts.get('rows', 0), 'row')} in {pluralize(len(self.files), 'file')}"
