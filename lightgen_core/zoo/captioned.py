"""Captioned pictures for the zoo's CLIP and T5: which caption is true of which picture, and batches of near misses."""

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
"""How often each of CATEGORIES is drawn: what binds and relates words is hardest."""

WORDS = 24
"""Tokens that a caption is padded to; the grammar's longest has 22."""

PHRASINGS = 48
"""Phrasings kept of each meaning."""

BATCH_SHAPES, BATCH_COLORS = 4, 4
"""Words that a batch of near misses speaks of: few, so that swaps, inverses and miscounts meet in it."""

_COLORS, _RELATIONS = tuple(COLORS), tuple(RELATIONS)
_ANY, _ABSENT = -1, -2


@dataclass(frozen=True)
class Captioned:
    """Pictures of known content, and the captions of all meanings.

    images: (n, 3, height, width) uint8; said: (n,) the meaning each was drawn for; truth: (n, meanings) bool;
    answers: (meanings, shapes, 3) what each meaning says of each shape (see `answers_of`);
    words: (meanings, shapes + colours) bool, what each meaning names; captions: (meanings, phrasings, words) token
    ids, padded with 0.
    """

    images: Tensor
    said: Tensor
    truth: Tensor
    answers: Tensor
    words: Tensor
    captions: Tensor
    weights: Tensor

    def draw(self, count: int, near_misses: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of pictures (count,) and, for each, a phrasing (count, words) of its meaning."""
        weights = self.weights
        if near_misses:
            allowed = torch.zeros(self.words.shape[1], dtype=torch.bool)
            allowed[torch.randperm(len(SHAPES), generator=generator)[:BATCH_SHAPES]] = True
            allowed[len(SHAPES) + torch.randperm(len(_COLORS), generator=generator)[:BATCH_COLORS]] = True
            weights = weights * ~(self.words & ~allowed).any(1)[self.said]
        rows = torch.multinomial(weights, count, generator=generator)
        phrasing = torch.randint(self.captions.shape[1], (count,), generator=generator)
        return rows, self.captions[self.said[rows], phrasing]


def make_lesson(
    tokenizer: PreTrainedTokenizerBase,
    meanings: list[Meaning],
    seed: int,
    scale: float = 1.0,
    phrasings: int = PHRASINGS,
) -> Captioned:
    """Half composed as in the default world, half of other layouts and words; `scale` times 30,000 pictures."""
    rng = np.random.default_rng(seed)
    texts = [caption for meaning in meanings for caption in phrased(meaning, phrasings, rng)]
    ids = tokenizer(texts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt").input_ids
    worlds = {World(): 14_000, full_world(): 9_000, full_world(layout="free"): 3_500, full_world(layout="grid"): 3_500}
    plan = [(world, int(count * scale)) for world, count in worlds.items()]
    return make_captioned(plan, meanings, ids.view(len(meanings), phrasings, WORDS), rng)


def make_captioned(
    plan: list[tuple[World, int]], meanings: list[Meaning], captions: Tensor, rng: np.random.Generator
) -> Captioned:
    """Draw `count` pictures of each world in `plan`, of those meanings that it can express, categories in turn."""
    index = {meaning: i for i, meaning in enumerate(meanings)}
    images, said, facts = [], [], []
    for world, count in plan:
        known = [[m for m in meanings if m.category == c and _expressible(m, world)] for c in CATEGORIES]
        for i in range(count):
            members = known[i % len(known)]
            meaning = members[rng.integers(len(members))]
            image = render(meaning, world, rng)
            images.append(image)
            said.append(index[meaning])
            facts.append(_facts(detect(image)))
    said_rows = torch.tensor(said)
    category = torch.tensor([CATEGORIES.index(meaning.category) for meaning in meanings])[said_rows]
    share = torch.tensor(CATEGORY_WEIGHTS) / torch.bincount(category, minlength=len(CATEGORIES))
    return Captioned(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        said=said_rows,
        truth=_truth(np.array(facts), meanings),
        answers=torch.tensor([answers_of(meaning) for meaning in meanings]),
        words=torch.tensor([[w in _words(m) for w in (*SHAPES, *_COLORS)] for m in meanings]),
        captions=captions,
        weights=share[category],
    )


def phrased(meaning: Meaning, count: int, rng: np.random.Generator) -> list[str]:
    """`count` phrasings, drawn with replacement where there are fewer; one in ten ends with a full stop."""
    every = phrasings(meaning)
    chosen = rng.choice(len(every), count, replace=len(every) < count)
    return [every[i] + "." * bool(rng.random() < 0.1) for i in chosen]


def answers_of(meaning: Meaning) -> list[tuple[int, int, int]]:
    """For each shape: how many; 0 or 1 + its colour if that is said; 0 or 1 + where it is, seen from the other."""
    answers = [(0, 0, 0)] * len(SHAPES)
    relation = meaning.relation
    for thing in meaning.objects:
        color = 1 + _COLORS.index(thing.color) if thing.color else 0
        place = 1 + _RELATIONS.index(relation) if relation else 0
        answers[SHAPES.index(thing.shape)] = (meaning.count, color, place)
        relation = RELATIONS[relation] if relation else None
    return answers


def _words(meaning: Meaning) -> set[str | None]:
    return {word for thing in meaning.objects for word in (thing.shape, thing.color)}


def _expressible(meaning: Meaning, world: World) -> bool:
    return _words(meaning) <= {None, *world.shapes, *world.colors} and meaning.count <= world.max_count


def _facts(things: list[Detection]) -> NDArray[np.int64]:
    """(shapes, 2 + relations): how many, in which colour, and where from the only other thing."""
    facts = np.zeros((len(SHAPES), 2 + len(_RELATIONS)), np.int64)
    facts[:, 1] = _ABSENT
    for thing in things:
        row = facts[SHAPES.index(thing.shape)]
        color = _COLORS.index(thing.color)
        row[0] += 1
        row[1] = color if row[0] == 1 or row[1] == color else _ABSENT
    if len(things) == 2:
        for first, second in (things, things[::-1]):
            for relation in relations(first, second):
                facts[SHAPES.index(first.shape), 2 + _RELATIONS.index(relation)] = 1
    return facts


def _truth(facts: NDArray[np.int64], meanings: list[Meaning]) -> Tensor:
    """Whether each meaning is true of each picture, by the detector's rules: (pictures, meanings)."""
    columns = []
    for meaning in meanings:
        counts = np.zeros(len(SHAPES), np.int64)
        colors = np.full(len(SHAPES), _ANY)
        for thing in meaning.objects:
            counts[SHAPES.index(thing.shape)] = meaning.count
            colors[SHAPES.index(thing.shape)] = _ANY if thing.color is None else _COLORS.index(thing.color)
        true = (facts[:, :, 0] == counts).all(1) & ((colors == _ANY) | (facts[:, :, 1] == colors)).all(1)
        if meaning.relation is not None:
            first = SHAPES.index(meaning.objects[0].shape)
            true &= facts[:, first, 2 + _RELATIONS.index(meaning.relation)] == 1
        columns.append(true)
    return torch.from_numpy(np.stack(columns, axis=1))
