"""Quality of the zoo: `python -m lightgen_core.zoo.quality` prints docs/zoo.md's tables as JSON."""

import argparse
import json
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.encoders.autoencoder import LatentCodec
from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.text_encoder import TextEncoder
from lightgen_core.scene.config import World
from lightgen_core.scene.detect import satisfies
from lightgen_core.scene.grammar import meanings
from lightgen_core.scene.meaning import Meaning, excludes
from lightgen_core.scene.render import render
from lightgen_core.scene.split import split
from lightgen_core.zoo.captioned import phrased
from lightgen_core.zoo.training import balanced, full_world

WORLDS = {
    "default": World(),
    "every word": full_world(),
    "grid": World(layout="grid"),
    "free": World(layout="free"),
    "32 px": World(image_size=32),
    "64 px": World(image_size=64),
    "128 px": World(image_size=128),
    "256 px": World(image_size=256),
}

BATCH_VALUES = 256 * 48 * 48 * 3
"""Values of the images that are encoded together."""


def reconstruction(
    codec: LatentCodec, world: World, count: int, rng: np.random.Generator, noise: float = 0.0
) -> dict[str, float]:
    """Return the fraction still right after encode and decode, by category and "overall"; `noise` is its deviation."""
    held_out = balanced(split(world)[1], count, rng)
    images = np.stack([render(meaning, world, rng) for meaning in held_out])
    decoded = []
    for part in np.array_split(images, -(-images.size // BATCH_VALUES)):
        latents = codec.encode(part)
        decoded += list(codec.decode(latents + noise * rng.standard_normal(latents.shape, np.float32)))
    right: dict[str, list[bool]] = defaultdict(list)
    for meaning, image in zip(held_out, decoded, strict=True):
        right[meaning.category].append(satisfies(image, meaning))
    scores = {category: float(np.mean(hits)) for category, hits in right.items()}
    return scores | {"overall": float(np.mean(list(scores.values())))}


def latent_spread(
    codec: LatentCodec, world: World, count: int, rng: np.random.Generator, patch: int = 2
) -> dict[str, float]:
    """Return mean, deviation and effective dimensions of patch x patch tokens.

    participation: (sum of eigenvalues)² / sum of their squares; components_95: principal components that hold 95 %.
    """
    images = np.stack([render(meaning, world, rng) for meaning in balanced(split(world)[0], count, rng)])
    latents = torch.from_numpy(codec.encode(images))
    tokens = functional.unfold(latents, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    spectrum = torch.linalg.eigvalsh(torch.cov(tokens.T)).flip(0)
    held = spectrum.cumsum(0) / spectrum.sum()
    return {
        "mean": float(latents.mean()),
        "deviation": float(latents.std()),
        "participation": float(spectrum.sum() ** 2 / spectrum.square().sum()),
        "components_95": int((held < 0.95).sum()) + 1,
    }


def retrieval_accuracy(clip: Clip, world: World, count: int, rng: np.random.Generator, among: int = 50) -> float:
    """Return the top-1 accuracy of held-out captions among `among` exclusive ones."""
    every = meanings(world)
    captions = np.stack([clip.embed_texts([phrased(m, 1, rng)[0] for m in every]) for _ in range(4)], axis=1)
    apart = np.array([[excludes(a, b) for b in every] for a in every])
    held_out = balanced(split(world)[1], count, rng)
    images = clip.embed_images(np.stack([render(meaning, world, rng) for meaning in held_out]))
    right = 0
    for meaning, image in zip(held_out, images, strict=True):
        rivals = [every.index(meaning)]
        for index in rng.permutation(len(every)):
            if len(rivals) < among and apart[index, rivals].all():
                rivals.append(index)
        right += int(np.argmax(captions[rivals, rng.integers(4, size=len(rivals))] @ image) == 0)
    return right / count


class Probe(nn.Module):
    """One attention over frozen states, with a shape as the query."""

    def __init__(self, width: int, shapes: int, targets: int) -> None:
        super().__init__()
        self.query = nn.Embedding(shapes, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, targets)

    def forward(self, states: Tensor, mask: Tensor, query: Tensor) -> Tensor:
        scores = torch.einsum("rwd,rd->rw", self.key(states), self.query(query)) / states.shape[2] ** 0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(1)
        return self.value(torch.einsum("rw,rwd->rd", weights, states))


def probe(encoder: TextEncoder, world: World, category: str, rng: np.random.Generator, steps: int = 600) -> float:
    """Return a probe's held-out accuracy on positions or colours of shapes."""
    chosen = ([meaning for meaning in members if meaning.category == category] for members in split(world))
    train, test = (_probe_data(encoder, members, world, rng) for members in chosen)
    torch.manual_seed(int(rng.integers(2**31)))
    model = Probe(encoder.width, len(world.shapes), max(4, len(world.colors)))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        rows = torch.randint(len(train[0]), (256,))
        states, mask, query, targets = (part[rows] for part in train)
        loss = functional.cross_entropy(model(states, mask, query), targets)
        model.zero_grad()
        loss.backward()
        optimizer.step()
    states, mask, query, targets = test
    with torch.no_grad():
        return float((model(states, mask, query).argmax(1) == targets).float().mean())


def _probe_data(
    encoder: TextEncoder, members: list[Meaning], world: World, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return states and masks of 24 phrasings per meaning, questions and answers."""
    captions, query, targets = [], [], []
    for meaning in members:
        for caption in phrased(meaning, 24, rng):
            for shape, value in _questions(meaning, world):
                captions.append(caption)
                query.append(shape)
                targets.append(value)
    states = [torch.from_numpy(state) for state in encoder.encode(captions)]
    padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(state) for state in states])[:, None]
    return padded, mask, torch.tensor(query), torch.tensor(targets)


def _questions(meaning: Meaning, world: World) -> list[tuple[int, int]]:
    """Return (shape, answer) for both objects of a meaning."""
    shapes = [world.shapes.index(thing.shape) for thing in meaning.objects]
    if meaning.relation is None:
        return [(s, world.colors.index(str(t.color))) for s, t in zip(shapes, meaning.objects, strict=True)]
    targets = {"left of": (0, 1), "right of": (1, 0), "above": (2, 3), "below": (3, 2)}[meaning.relation]
    return list(zip(shapes, targets, strict=True))


def measure_autoencoder(codec: LatentCodec, count: int, rng: np.random.Generator) -> dict[str, object]:
    """Measure reconstruction by world, noise tolerance and latent spread."""
    worlds = {name: world for name, world in WORLDS.items() if world.image_size < 256}
    scores = {name: reconstruction(codec, world, count, rng) for name, world in worlds.items()}
    scores["256 px"] = reconstruction(codec, WORLDS["256 px"], max(1, count // 8), rng)
    noisy = {noise: reconstruction(codec, World(), count, rng, noise)["overall"] for noise in (0.1, 0.2, 0.3, 0.5, 0.7)}
    return {"reconstruction": scores, "noise on latents": noisy, "latents": latent_spread(codec, World(), 1000, rng)}


def measure_text(clip: Clip, encoder: TextEncoder, count: int, rng: np.random.Generator) -> dict[str, object]:
    """Measure CLIP's retrieval accuracy and probes of the T5's states."""
    right = {
        name: retrieval_accuracy(clip, WORLDS[name], count, rng)
        for name in ("default", "every word", "grid", "free", "64 px")
    }
    probed = {category: probe(encoder, World(), category, rng) for category in ("position", "color_attr")}
    return {"right caption among 50": right, "probe of T5 states": probed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoencoder", default="zoo:autoencoder")
    parser.add_argument("--clip", default="zoo:clip")
    parser.add_argument("--t5", default="zoo:t5")
    parser.add_argument("--count", type=int, default=480, help="images for each score")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    scores = measure_autoencoder(LatentCodec.load(arguments.autoencoder), arguments.count, rng)
    scores |= measure_text(Clip.load(arguments.clip), TextEncoder.load(arguments.t5), arguments.count, rng)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
