"""Metrics of a set of images by name: what each needs, and how it is computed.

Another metric is a function of `ImageSetFeatures` and a line in `METRICS`. Every value comes with a 95 % interval for
other prompts and other images of them; references and training images stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lightgen_core.dedup.diversity import vendi_score
from lightgen_core.evaluation.distances import FrechetDistance, cmmd, kid
from lightgen_core.evaluation.half_samples import TooFewImages, half_sample_interval
from lightgen_core.evaluation.manifold import Recall, precision
from lightgen_core.evaluation.memorisation import nearest_training
from lightgen_core.intervals import bootstrap_mean

Features = Float[np.ndarray, "_ features"]
_CLOSEST = 8
"""Images of memorisation that are named with their training image."""


@dataclass(frozen=True)
class ImageSetFeatures:
    """Features of a set of images and of what it is compared with, all in one space.

    prompts: (n,) caption of each image; names: (n,) of their files; texts: (n, features) of the captions, in CLIP's
    space; references, training: of other sets, where a metric asks for them; training_names: of their images;
    threshold: 1 - cosine below which an image counts as memorised.
    """

    images: Features
    prompts: Sequence[str]
    names: Sequence[str]
    seed: int
    resamples: int
    texts: Features | None = None
    references: Features | None = None
    training: Features | None = None
    training_names: Sequence[str] = ()
    threshold: float = 0.0


@dataclass(frozen=True)
class SetMetric:
    """A metric of a set of images.

    Attributes:
        meaning: one line for a person.
        measure: features to `{"value", "low", "high", "n"}`, perhaps with more.
        against: the set that it compares with.
        space: the one that it is always in: CLIP's, or None for the space that is asked for.
        images: least number for each prompt.
    """

    meaning: str
    measure: Callable[[ImageSetFeatures], dict[str, Any]]
    against: Literal["references", "training"] | None = None
    clip: bool = False
    images: int = 1


def within_prompt_distances(vectors: Features, prompts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return the mean 1 - cosine of two images of a prompt, for each prompt that has two, and these prompts.

    With s the sum of a prompt's m unit vectors, its pairs' mean cosine is (|s|^2 - m) / (m (m - 1)).
    """
    unit, found = _unit(vectors), {}
    by_prompt = np.asarray(prompts)
    for prompt in dict.fromkeys(prompts):
        own = unit[by_prompt == prompt]
        if (m := len(own)) > 1:
            found[prompt] = float(1 - ((own.sum(axis=0) ** 2).sum() - m) / (m * (m - 1)))
    return list(found.values()), list(found)


def _diversity(given: ImageSetFeatures) -> dict[str, Any]:
    distances, prompts = within_prompt_distances(given.images, given.prompts)
    if not distances:
        raise TooFewImages("no prompt has two images; --images 2 generates them")
    return bootstrap_mean(distances, prompts, given.seed, resamples=given.resamples).as_dict()


def _vendi(given: ImageSetFeatures) -> dict[str, Any]:
    unit = _unit(given.images)
    return half_sample_interval(lambda rows: vendi_score(unit[rows]), given.prompts, given.seed).as_dict()


def _clip_score(given: ImageSetFeatures) -> dict[str, Any]:
    assert given.texts is not None
    cosines = (_unit(given.images) * _unit(given.texts)).sum(axis=1)
    return bootstrap_mean(cosines, list(given.prompts), given.seed, resamples=given.resamples).as_dict()


def _distance(build: Callable[[Features, Features], Callable[[Any], float]]) -> Callable[[ImageSetFeatures], Any]:
    def measure(given: ImageSetFeatures) -> dict[str, Any]:
        assert given.references is not None
        statistic = build(given.images, given.references)
        return half_sample_interval(statistic, given.prompts, given.seed).as_dict()

    return measure


def _precision(given: ImageSetFeatures) -> dict[str, Any]:
    assert given.references is not None
    inside = precision(given.images, given.references)
    return bootstrap_mean(inside, list(given.prompts), given.seed, resamples=given.resamples).as_dict()


def _recall(given: ImageSetFeatures) -> dict[str, Any]:
    found = _distance(Recall)(given)
    return found | {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}  # it is a share


def _memorisation(given: ImageSetFeatures) -> dict[str, Any]:
    assert given.training is not None
    nearest = nearest_training(given.images, given.training, given.seed)
    copies, prompts = nearest.distance < given.threshold, list(given.prompts)
    share = bootstrap_mean(copies, prompts, given.seed, resamples=given.resamples).as_dict()
    distance = bootstrap_mean(nearest.distance, prompts, given.seed, resamples=given.resamples).as_dict()
    return {
        **share,
        "count": int(copies.sum()),
        "threshold": given.threshold,
        "distance": distance,
        "control": float((nearest.control < given.threshold).mean()),
        "closest": nearest.closest(given.names, given.training_names, _CLOSEST),
    }


METRICS: Mapping[str, SetMetric] = {
    "fd": SetMetric("Fréchet distance to the references; 0 is equal", _distance(FrechetDistance), "references"),
    "kid": SetMetric("kernel distance to the references, unbiased; 0 is equal", _distance(kid), "references"),
    "cmmd": SetMetric("1000 MMD^2 to the references in CLIP's space", _distance(cmmd), "references", clip=True),
    "precision": SetMetric("share of images that are like a reference", _precision, "references"),
    "recall": SetMetric("share of references that an image is like", _recall, "references"),
    "vendi": SetMetric("effective number of different images", _vendi),
    "diversity": SetMetric("1 - cosine of two images of a prompt", _diversity, images=2),
    "clip": SetMetric("cosine of image and prompt", _clip_score, clip=True),
    "memorisation": SetMetric("share of images that are a training image again", _memorisation, "training"),
}
"""Metrics by the name that --metrics takes."""


def _unit(values: Features) -> Features:
    return values / np.linalg.norm(values, axis=1, keepdims=True)
