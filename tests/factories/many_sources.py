"""Everything that the recipe `many_sources.yaml` names, in a folder: models of random weights, captions, pictures.

Written by `python -m tests.factories.many_sources FOLDER`.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.ndimage import gaussian_filter

from lightgen_core.images.codec import encode_png
from tests.factories.tiny_language_model import save_tiny_language_model
from tests.factories.tiny_pipelines import dcae, save_flux, save_sd3, t5, t5_tokenizer
from tests.factories.tiny_vlm import save_tiny_vlm

RECIPE = Path(__file__).with_suffix(".yaml")
PROMPTS = ("a photo of a bench", "two cups and a green pear")
MUSEUM = {
    "small": "an old stamp",
    "elongated": "a long frieze",
    "blurred": "fog over the river",
    "uniform": "a black and white floor",
    "damaged": "a torn page",
    "copy": "the same print once more",
    "prompt": PROMPTS[1],
} | {f"print-{number}": f"print number {number} of an old master" for number in range(7)}
"""Captions of the set of pictures, by the name of the file; the first six are of pictures that are left out."""
WIDTH = 64
"""Values of an embedding of zoo:clip, which the heads read."""


def save_many_sources(folder: Path) -> Path:
    """Write the models, the files and the recipe into a folder; return the recipe's path."""
    models = folder / "models"
    save_tiny_language_model(models / "llama")
    save_tiny_language_model(models / "mistral", kind="mistral", chat=True, seed=1)
    save_flux(models / "flux")
    save_sd3(models / "sd3")
    save_tiny_vlm(models / "llava")
    save_tiny_vlm(models / "judge", words="0 1 2 3 4 5 6 7 8 9 10 thing")
    dcae().save_pretrained(models / "dcae")
    t5().save_pretrained(models / "t5")
    t5_tokenizer().save_pretrained(models / "t5")
    _save_heads(folder / "heads")
    _save_museum(folder / "museum")
    (folder / "captions.txt").write_text("".join(f"a {what} at night\n" for what in ("boat", "house", "dog", "tree")))
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return Path(shutil.copy(RECIPE, folder))


def _save_heads(folder: Path) -> None:
    """Write a head of one layer and one of two, with random weights."""
    folder.mkdir()
    rng = np.random.default_rng(0)

    def layer(name: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
        weight = rng.normal(size=(outputs, inputs)).astype(np.float32)
        return {f"{name}weight": weight, f"{name}bias": np.zeros(outputs, np.float32)}

    save_file(layer("", WIDTH, 1), folder / "aesthetic.safetensors")
    save_file(layer("0.", WIDTH, 16) | layer("2.", 16, 1), folder / "safety.safetensors")


def _save_museum(folder: Path) -> None:
    """Write pictures with a caption beside each; the first six are to be left out, each for its own reason."""
    folder.mkdir()
    noise = [_noise(number, 1.2) for number in range(8)]
    pictures = {name: encode_png(noise[number]) for number, name in enumerate(list(MUSEUM)[6:])}
    pictures |= {
        "small": encode_png(noise[0][:24, :24]),
        "elongated": encode_png(np.concatenate(noise[:3], axis=1)),
        "blurred": encode_png(_noise(9, 8)),
        "uniform": encode_png(np.indices((48, 48)).sum(0)[..., None].repeat(3, 2).astype(np.uint8) // 6 % 2 * 255),
        "damaged": encode_png(noise[0])[:200],
        "copy": pictures["print-0"],
    }
    for name, caption in MUSEUM.items():
        (folder / f"{name}.png").write_bytes(pictures[name])
        (folder / f"{name}.txt").write_text(caption)


def _noise(seed: int, radius: float) -> np.ndarray:
    """Return coloured noise without what is finer than a radius in px, (48, 48, 3) uint8."""
    white = np.random.default_rng(seed).normal(size=(48, 48, 3))
    smooth = gaussian_filter(white, (radius, radius, 0))
    return np.clip(128 + 48 * smooth / smooth.std(), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    print(save_many_sources(Path(sys.argv[1])))
