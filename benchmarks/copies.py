"""Find planted copies: ten kinds, under captions of other images, and what else is taken for a copy.

python -m benchmarks.copies SET [--format webdataset] [--clip zoo:clip] [--labels duplicates.json]

Prints, for each kind, how many of the planted copies each space finds, the images wrongly taken for a copy of one, and,
with labels (lists of keys by kind), the pairs of each kind that are called copies.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lightgen_core.dedup.config import CopyConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.copy_features import copy_features, stack_features
from lightgen_core.dedup.planted import KINDS
from lightgen_core.encoders.clip import Clip
from lightgen_core.images.codec import decode_image
from lightgen_core.images.image_set import Format, open_image_set
from lightgen_core.images.sample import Sample


def load(path: str, format: Format) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Return keys, captions and images of a set."""
    image_set = open_image_set(path, format)
    samples = [sample for sample in image_set.samples() if isinstance(sample, Sample)]
    data = image_set.read([sample.byte_range for sample in samples])
    images = [decode_image(each) for each in data if isinstance(each, bytes)]
    return [sample.key for sample in samples], [sample.caption for sample in samples], images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--format", default="webdataset")
    parser.add_argument("--clip", default="zoo:clip")
    parser.add_argument("--labels")
    parser.add_argument("--planted", type=int, default=100, help="of each kind")
    options = parser.parse_args()
    keys, captions, images = load(options.set, options.format)
    rng, size = np.random.default_rng(0), len(images)
    originals = rng.choice(size, options.planted, replace=False)
    planted = [np.asarray(make(Image.fromarray(images[row]))) for make in KINDS.values() for row in originals]
    other = (np.tile(originals, len(KINDS)) + rng.integers(1, size, len(planted))) % size
    everything, words = images + planted, captions + [captions[row] for row in other]
    hashes, thumbnails = stack_features([copy_features(image) for image in everything])
    clip = Clip.load(options.clip)
    vectors = clip.embed_image_list(everything)
    hash_only = CopyConfig(correlation=0, related_captions=1)
    thumbnail_too = CopyConfig(related_captions=1)
    pairs = {}
    for name, config in (("hash", hash_only), ("hash, thumbnail", thumbnail_too), ("and captions", CopyConfig())):
        later, earlier = CopyMatcher(hashes, thumbnails, words, config).pairs(np.arange(len(everything)))
        pairs[name] = set(zip(later.tolist(), earlier.tolist(), strict=True))
    cosine = vectors @ vectors.T
    for threshold in (0.9, 0.95):
        found = np.nonzero(np.tril(cosine >= threshold, -1))
        pairs[f"CLIP {threshold}"] = set(zip(found[0].tolist(), found[1].tolist(), strict=True))
    print(f"{size:,} images, {options.planted} planted copies of each kind under other captions\n")
    print("| | " + " | ".join(pairs) + " |\n|" + " --- |" * (len(pairs) + 1))
    for number, kind in enumerate(KINDS):
        rows = [(size + number * options.planted + place, row) for place, row in enumerate(originals.tolist())]
        print(f"| {kind} | " + " | ".join(str(sum(pair in found for pair in rows)) for found in pairs.values()) + " |")
    if options.labels:
        print_labels(json.loads(Path(options.labels).read_text()), keys, pairs, captions)


def print_labels(labels: dict, keys: list[str], pairs: dict[str, set[tuple[int, int]]], captions: list[str]) -> None:
    """Print the pairs of each labelled kind that are called copies, and the unlabelled ones."""
    row = {key.rsplit("/", 1)[-1]: number for number, key in enumerate(keys)}
    kinds = {**labels.pop("duplicates"), **labels}
    labelled: set[tuple[int, int]] = set()
    for kind, groups in kinds.items():
        rows = [[row[key] for key in group if key in row] for group in groups]
        true = {(max(pair), min(pair)) for group in rows for pair in itertools.combinations(group, 2)}
        labelled |= true
        print(f"| {kind}: {len(true)} | " + " | ".join(str(len(true & found)) for found in pairs.values()) + " |")
    false = [{pair for pair in found - labelled if max(pair) < len(keys)} for found in pairs.values()]
    print("| not labelled | " + " | ".join(str(len(found)) for found in false) + " |")
    different = [sum(captions[one] != captions[other] for one, other in found) for found in false]
    print("| of these under two captions | " + " | ".join(map(str, different)) + " |")


if __name__ == "__main__":
    main()
