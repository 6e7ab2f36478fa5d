"""Time the search for captions that repeat each other in nearly the same words.

python -m benchmarks.captions --rows 2000000 [--threshold 0.7] [--threads 2]

Captions of 20 to 24 words; one of ten is another with one word changed, one of fifty another in capitals. Memory is the
largest resident set of the process, captions included.
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.interleaved import table
from lightgen_core.dedup.minhash import near_duplicate_captions

NOUNS = (
    *("apple", "boat", "cloud", "drum", "eagle", "forest", "guitar", "harbour", "island", "jacket", "kettle", "lemon"),
    *("mountain", "needle", "orchid", "piano", "quilt", "river", "statue", "tower", "umbrella", "violin", "window"),
    *("yacht", "zebra", "bridge", "candle", "desert", "engine", "fountain", "garden", "hammer", "insect", "jungle"),
    *("kite", "ladder", "mirror", "notebook", "ocean", "palace", "queen", "robot", "shelf", "train", "uniform"),
    *("valley", "wagon", "child", "woman", "man", "dog", "cat", "horse", "bird", "fish", "tree", "flower", "house"),
    *("street", "market", "table", "chair", "lamp", "book", "bottle", "glass", "plate", "car", "bicycle", "truck"),
)
ADJECTIVES = (
    *("red", "green", "blue", "small", "large", "old", "young", "bright", "dark", "wooden", "metal", "golden", "quiet"),
    *("busy", "calm", "stormy", "foggy", "sunny", "snowy", "rusty", "shiny", "broken", "tall", "short", "wide"),
    *("narrow", "ancient", "modern", "empty", "crowded", "colourful", "grey", "white", "black", "soft", "rough"),
)
VERBS = ("standing", "sitting", "running", "flying", "resting", "leaning", "hanging", "glowing", "waiting", "burning")
PREPOSITIONS = ("beside", "under", "above", "behind", "near", "inside", "across", "along", "before", "around")
STYLES = ("oil painting", "photograph", "watercolour", "pencil sketch", "film still", "mosaic", "woodcut", "macro shot")
CHANGED, EQUAL = 0.1, 0.02


def captions(rows: int) -> list[str]:
    """Return captions in random order."""
    rng = np.random.default_rng(0)

    def one_of(words: Sequence[str]) -> str:
        return words[int(rng.random() * len(words))]

    def thing() -> str:
        return f"{one_of(ADJECTIVES)} {one_of(NOUNS)}"

    def event() -> str:
        return f"{one_of(VERBS)} {one_of(PREPOSITIONS)}"

    out: list[str] = []
    for _ in range(int(rows * (1 - CHANGED - EQUAL))):
        scene = f"a {one_of(ADJECTIVES)} {thing()} {event()} the {thing()}"
        out.append(f"A {one_of(STYLES)} of {scene}, with a {one_of(NOUNS)} and {thing()}s {event()} it.")
    originals = len(out)
    for _ in range(int(rows * CHANGED)):
        words = out[int(rng.random() * originals)].split()
        words[int(rng.random() * len(words))] = one_of(ADJECTIVES)
        out.append(" ".join(words))
    while len(out) < rows:
        out.append(out[int(rng.random() * originals)].upper())
    return [out[row] for row in rng.permutation(rows)]


def main() -> None:
    """Make the captions, search them and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    texts = captions(args.rows)
    wall, cpu = time.perf_counter(), time.process_time()
    kept = int(near_duplicate_captions(texts, args.threshold, 0, threads=args.threads).kept.sum())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row = (f"{args.rows:,}", f"{wall:,.0f}", f"{cpu:,.0f}", f"{memory:.1f}", f"{kept:,}")
    print(table(("captions", "wall s", "CPU s", "memory, GB", "kept"), [row]))


if __name__ == "__main__":
    main()
