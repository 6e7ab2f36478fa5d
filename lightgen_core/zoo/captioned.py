"""Captioned images for the zoo's CLIP and T5, with hard negatives."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightgen_core.scene.config import World
from lightgen_core.scene.detect import Detection, detect, relations
from lightgen_core.scene.grammar import phrasings
from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.render import render
from lightgen_core.scene.vocabulary import CATEGORIES, COLORS, RELATIONS, SHAPES
from lightgen_core.zoo.training import full_world

CATEGORY_WEIGHTS = (1.0, 2.0, 3.0, 2.0, 5.0, 5.0)
"""Sampling weight of each of CATEGORIES; binding and relations are hardest."""

CAPTION_TOKENS = 24
"""Tokens that a caption is padded to; the grammar's longest has 22."""

PHRASINGS = 48
"""Phrasings kept of each meaning."""

BATCH_SHAPES, BATCH_COLORS = 4, 4
"""Shapes and colours of a batch of near misses: few, so that hard negatives meet."""

_COLORS, _RELATIONS = tuple(COLORS), tuple(RELATIONS)
_ANY, _ABSENT = -1, -2


@dataclass(frozen=True)
class Captioned:
    """Images of known content, with the captions of all meanings.

    images: (n, 3, height, width) uint8; meaning_ids: (n,) the meaning each shows; truth: (n, meanings) bool;
    targets: (meanings, shapes, 3), see `targets_of`; words: (meanings, shapes + colours) bool, those that a meaning
    names; captions: (meanings, phrasings, tokens) ids, padded with 0.
    """

    images: Tensor
    meaning_ids: Tensor
    truth: Tensor
    targets: Tensor
    words: Tensor
    captions: Tensor
    weights: Tensor

    def sample(self, count: int, near_misses: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample image rows (count,) and a phrasing of each (count, tokens)."""
        weights = self.weights
        if near_misses:
            allowed = torch.zeros(self.words.shape[1], dtype=torch.bool)
            allowed[torch.randperm(len(SHAPES), generator=generator)[:BATCH_SHAPES]] = True
            allowed[len(SHAPES) + torch.randperm(len(_COLORS), generator=generator)[:BATCH_COLORS]] = True
            weights = weights * ~(self.words & ~allowed).any(1)[self.meaning_ids]
        rows = torch.multinomial(weights, count, generator=generator)
        phrasing = torch.randint(self.captions.shape[1], (count,), generator=generator)
        return rows, self.captions[self.meaning_ids[rows], phrasing]


def make_dataset(
    tokenizer: PreTrainedTokenizerBase,
    meanings: list[Meaning],
    seed: int,
    scale: float = 1.0,
    phrasings: int = PHRASINGS,
) -> Captioned:
    """Render 30,000 times `scale` images, half of them of the default world."""
    rng = np.random.default_rng(seed)
    texts = [caption for meaning in meanings for caption in phrased(meaning, phrasings, rng)]
    padding = {"padding": "max_length", "max_length": CAPTION_TOKENS, "truncation": True}
    ids = tokenizer(texts, return_tensors="pt", **padding).input_ids
    worlds = {World(): 14_000, full_world(): 9_000, full_world(layout="free"): 3_500, full_world(layout="grid"): 3_500}
    plan = [(world, int(count * scale)) for world, count in worlds.items()]
    return make_captioned(plan, meanings, ids.view(len(meanings), phrasings, CAPTION_TOKENS), rng)


def make_captioned(
    plan: list[tuple[World, int]], meanings: list[Meaning], captions: Tensor, rng: np.random.Generator
) -> Captioned:
    """Render `count` images of each world in `plan`, of those meanings that it can express, categories in turn."""
    index = {meaning: i for i, meaning in enumerate(meanings)}
    images, meaning_ids, facts = [], [], []
    for world, count in plan:
        known = [[m for m in meanings if m.category == c and _expressible(m, world)] for c in CATEGORIES]
        for i in range(count):
            members = known[i % len(known)]
            meaning = members[rng.integers(len(members))]
            image = render(meaning, world, rng)
            images.append(image)
            meaning_ids.append(index[meaning])
            facts.append(_facts(detect(image)))
    meaning_rows = torch.tensor(meaning_ids)
    category = torch.tensor([CATEGORIES.index(meaning.category) for meaning in meanings])[meaning_rows]
    weight = torch.tensor(CATEGORY_WEIGHTS) / torch.bincount(category, minlength=len(CATEGORIES))
    return Captioned(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        meaning_ids=meaning_rows,
        truth=_truth(np.array(facts), meanings),
        targets=torch.tensor([targets_of(meaning) for meaning in meanings]),
        words=torch.tensor([[w in _words(m) for w in (*SHAPES, *_COLORS)] for m in meanings]),
        captions=captions,
        weights=weight[category],
    )


def phrased(meaning: Meaning, count: int, rng: np.random.Generator) -> list[str]:
    """Sample `count` phrasings; one in ten ends with a full stop."""
    every = phrasings(meaning)
    chosen = rng.choice(len(every), count, replace=len(every) < count)
    return [every[i] + "." * bool(rng.random() < 0.1) for i in chosen]


def targets_of(meaning: Meaning) -> list[tuple[int, int, int]]:
    """Return per shape its count, 0 or 1 + colour, and 0 or 1 + relation."""
    targets = [(0, 0, 0)] * len(SHAPES)
    relation = meaning.relation
    for obj in meaning.objects:
        color = 1 + _COLORS.index(obj.color) if obj.color else 0
        position = 1 + _RELATIONS.index(relation) if relation else 0
        targets[SHAPES.index(obj.shape)] = (meaning.count, color, position)
        relation = RELATIONS[relation] if relation else None
    return targets


def _words(meaning: Meaning) -> set[str | None]:
    return {word for obj in meaning.objects for word in (obj.shape, obj.color)}


def _expressible(meaning: Meaning, world: World) -> bool:
    return _words(meaning) <= {None, *world.shapes, *world.colors} and meaning.count <= world.max_count


def _facts(objects: list[Detection]) -> NDArray[np.int64]:
    """Return per shape its count, colour and relations, (shapes, 2 + relations)."""
    facts = np.zeros((len(SHAPES), 2 + len(_RELATIONS)), np.int64)
    facts[:, 1] = _ABSENT
    for obj in objects:
        row = facts[SHAPES.index(obj.shape)]
        color = _COLORS.index(obj.color)
        row[0] += 1
        row[1] = color if row[0] == 1 or row[1] == color else _ABSENT
    if len(objects) == 2:
        for first, second in (objects, objects[::-1]):
            for relation in relations(first, second):
                facts[SHAPES.index(first.shape), 2 + _RELATIONS.index(relation)] = 1
    return facts


def _truth(facts: NDArray[np.int64], meanings: list[Meaning]) -> Tensor:
    """Return which meanings are true of each image, (images, meanings) bool."""
    columns = []
    for meaning in meanings:
        counts = np.zeros(len(SHAPES), np.int64)
        colors = np.full(len(SHAPES), _ANY)
        for obj in meaning.objects:
            counts[SHAPES.index(obj.shape)] = meaning.count
            colors[SHAPES.index(obj.shape)] = _ANY if obj.color is None else _COLORS.index(obj.color)
        true = (facts[:, :, 0] == counts).all(1) & ((colors == _ANY) | (facts[:, :, 1] == colors)).all(1)
        if meaning.relation is not None:
            first = SHAPES.index(meaning.objects[0].shape)
            true &= facts[:, first, 2 + _RELATIONS.index(meaning.relation)] == 1
        columns.append(true)
    return torch.from_numpy(np.stack(columns, axis=1))
