"""Metrics over all images of an evaluation: what they need is looked for first, and measured last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flows.commands.evaluate_contamination import training_artifact
from flows.commands.evaluate_kept import KeptImages
from flows.commands.evaluate_options import EvaluationOptions
from flows.commands.evaluate_references import ReferenceImages, names_of
from flows.commands.evaluate_request import Request
from flows.commands.evaluate_sources import Source
from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from lightgen_core.evaluation.feature_models import (
    DINOV2,
    INCEPTION,
    ClipSpace,
    Features,
    FeaturesMissing,
    load_features,
)
from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from lightgen_core.evaluation.set_metrics import ImageSetFeatures, SetMetric

IN_A_SPACE = {"fid": ("fd", INCEPTION), "fd-dino": ("fd", DINOV2)}
"""Names of a metric in one certain space."""
_BATCH = 64  # images


class _Requested(NamedTuple):
    """A metric under the name that was asked for, and its space."""

    name: str
    metric: "SetMetric"
    space: str


class MetricSuite:
    """The metrics of `--metrics`."""

    def __init__(self, options: EvaluationOptions, recipe: Recipe, source: Source) -> None:
        """Look for what the metrics need, without torch.

        Raises:
            UserError: an unknown metric, or one whose references, training images or second images are missing.
        """
        self.names = names_of(options.metrics)
        self._options, self._recipe = options, recipe
        self._requested: list[_Requested] = []
        self._spaces: dict[str, Features] = {}
        self._sets: dict[str, ReferenceImages] = {}
        if self.names:
            self._requested = [self._request(name) for name in self.names]
            self._find_sets(source)

    def load(self, device: "torch.device") -> None:
        """Load the spaces. Raises UserError for one whose weights are not here."""
        for name, _, space in self._requested:
            if space not in self._spaces:
                try:
                    self._spaces[space] = load_features(space, device)
                except FeaturesMissing as error:
                    raise UserError(f"{name}: {error}") from error

    def measure(self, kept: KeptImages, requests: Sequence[Request]) -> dict[str, Any]:
        """Return `metrics`, each with value, interval, space and meaning, and `compared_with`.

        Raises:
            UserError: fewer images than a metric needs.
        """
        from lightgen_core.evaluation.half_samples import TooFewImages

        shown = [request for request in requests if self._requested and kept.path(request.seed) is not None]
        given: dict[str, ImageSetFeatures] = {}
        metrics: dict[str, Any] = {}
        for name, metric, space in self._requested:
            if space not in given:
                given[space] = self._features(space, kept, shown)
            try:
                metrics[name] = metric.measure(given[space]) | {"space": space, "meaning": metric.meaning}
            except TooFewImages as error:
                raise UserError(f"{name}: {error}") from error
        compared = {
            kind: {"location": found.location, "images": found.count, "read": found.read}
            for kind, found in self._sets.items()
        }
        return {"metrics": metrics, "compared_with": compared}

    def _request(self, name: str) -> _Requested:
        from lightgen_core.evaluation.set_metrics import METRICS

        known, space = IN_A_SPACE.get(name, (name, self._options.features))
        if known not in METRICS:
            names = (*METRICS, *IN_A_SPACE)
            raise UserError(f"--metrics {name}: expected some of {', '.join(names)}.{did_you_mean(name, names)}")
        metric = METRICS[known]
        if metric.images > (self._options.images or metric.images):
            raise UserError(f"{name} needs {metric.images} images of each prompt; give --images {metric.images}")
        clip = f"clip:{self._options.clip or self._recipe.embeddings.model}"
        return _Requested(name, metric, clip if metric.clip else space)

    def _find_sets(self, source: Source) -> None:
        """Find the images that the metrics compare with. Raises UserError."""
        wanted = {request.metric.against: request.name for request in self._requested if request.metric.against}
        for kind, name in wanted.items():
            given = self._options.references if kind == "references" else self._options.training
            location = given or (training_artifact(source.checkpoint, "synthesis") if kind == "training" else None)
            if location is None:
                what = "images to compare with" if kind == "references" else "the images that it was trained on"
                raise UserError(f"{name} needs {what}: give --{kind} FOLDER, Parquet, or synthesis/KEY of a store")
            seed = derive_seed(self._recipe.seed, kind)
            self._sets[kind] = ReferenceImages(location, self._options.store_uri, self._options.limit, seed)

    def _features(self, space: str, kept: KeptImages, shown: Sequence[Request]) -> "ImageSetFeatures":
        """Return the features of the images, and of what the metrics of a space compare them with."""
        from lightgen_core.evaluation.set_metrics import ImageSetFeatures

        embed, seed = self._spaces[space], self._recipe.seed
        if not shown:
            raise UserError("no image is left to measure: the source withheld all of them")
        captions = [request.caption for request in shown]
        batches = [shown[start : start + _BATCH] for start in range(0, len(shown), _BATCH)]
        images = [self._embed_kept(embed, kept, batch) for batch in batches]
        first = kept.image(shown[0].seed)
        assert first is not None
        against = {request.metric.against for request in self._requested if request.space == space}
        shape = (first.shape[0], first.shape[1])
        sets = {kind: self._embed_set(embed, kind, shape) for kind in self._sets if kind in against}
        training_names, training = sets.get("training", ([], None))
        return ImageSetFeatures(
            images=np.concatenate(images),
            prompts=captions,
            names=[str(kept.path(request.seed)) for request in shown],
            seed=derive_seed(seed, "metrics"),
            resamples=self._recipe.evaluation.resamples,
            texts=embed.texts(captions) if isinstance(embed, ClipSpace) else None,
            references=sets.get("references", ([], None))[1],
            training=training,
            training_names=training_names,
            threshold=self._options.memorised_below,
        )

    @staticmethod
    def _embed_kept(embed: Features, kept: KeptImages, requests: Sequence[Request]) -> np.ndarray:
        images = [kept.image(request.seed) for request in requests]
        return embed([image for image in images if image is not None])

    def _embed_set(self, embed: Features, kind: str, shape: tuple[int, int]) -> tuple[list[str], np.ndarray]:
        names: list[str] = []
        parts = []
        for some, images in self._sets[kind].batches(shape):
            names += some
            parts.append(embed(images))
        return names, np.concatenate(parts)
