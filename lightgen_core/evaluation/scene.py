"""The scene benchmark: held-out captions, judged by a detector. Free of torch."""

from collections.abc import Iterable, Sequence

import numpy as np

from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import parse, phrasings
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import CATEGORIES


def scene_prompts(world: World, per_category: int | None, seed: int) -> list[Prompt]:
    """Return `per_category` (None: all) different captions of each category, evenly over its held-out meanings."""
    rng = np.random.default_rng(seed)
    prompts: list[Prompt] = []
    for category in CATEGORIES:
        queues = []
        for meaning in (meaning for meaning in split(world)[1] if meaning.category == category):
            captions = phrasings(meaning)
            queues.append([Prompt(captions[i], category, meaning.canonical) for i in rng.permutation(len(captions))])
        rounds = range(max(map(len, queues), default=0))
        prompts += [queue[i] for i in rounds for queue in queues if i < len(queue)][:per_category]
    return prompts


def judge_scenes(images: Iterable[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Return, for each image (height, width, 3), whether it shows what its caption says: (n,) bool.

    Raises:
        CaptionError: a caption is not of the scene grammar.
    """
    from lightgen_core.scene.detect import satisfies  # late: scipy's half second is for those who judge

    return np.array([satisfies(image, parse(caption)) for image, caption in zip(images, captions, strict=True)])
