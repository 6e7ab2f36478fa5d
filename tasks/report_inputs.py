"""Artifacts of a run, by label: the data of its report."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from storage.artifact import Artifact
from tasks.config.recipe import Recipe


@dataclass(frozen=True)
class RunArtifacts:
    """The artifacts of a run, by label, and the recipe they were made from."""

    artifacts: Mapping[str, Artifact]
    recipe: Recipe

    @classmethod
    def of(cls, artifacts: Iterable[Artifact], recipe: Recipe) -> Self:
        """Put artifacts under their labels."""
        return cls({artifact.label: artifact for artifact in artifacts}, recipe)

    def last(self, stage: str) -> Artifact:
        """Return a stage's artifact; of `pairs` and `dpo` that of the last round."""
        rounds = [artifact for label, artifact in self.artifacts.items() if re.fullmatch(rf"{stage}(-\d+)?", label)]
        return rounds[-1]
