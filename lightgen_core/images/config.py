"""Configuration of a location of images or captions. Imports no torch."""

from typing import Self

from pydantic import Field, model_validator

from lightgen_core.config import Section


class DataLocation(Section):
    """A location, and captions of its images that lie elsewhere."""

    path: str
    format: str | None = None
    captions: str | None = Field(
        None,
        description="table that names images of the folder, with captions, where they lie elsewhere than with the "
        "images: CSV with a header (.csv, .tsv, .txt), JSON lines, JSON of COCO or kohya, or Parquet",
        exclude_if=lambda location: location is None,  # keys of recipes without stay
    )

    @model_validator(mode="after")
    def _captions_are_of_a_folder(self) -> Self:
        if self.captions and self.format not in (None, "folder"):
            raise ValueError(
                f"captions names images of a folder, and format is {self.format}, whose rows have their own captions; "
                "take captions out, or make format folder"
            )
        return self

    @property
    def locations(self) -> tuple[str, ...]:
        """Locations whose content decides what is read."""
        return (self.path, self.captions) if self.captions else (self.path,)
