"""Reading of text in images: does it show the words that its caption puts in quotes?"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_QUOTED = re.compile(r"\"([^\"]+)\"|\u201c([^\u201d]+)\u201d|(?<!\w)'([^']+)'(?!\w)|«([^»]+)»|\u2018([^\u2019]+)\u2019")
_SIDE = 1024
"""Longest side of the images that tesseract reads, px: its letters should be 20 px high or more."""
_SPARSE = "--psm 11"  # text anywhere, in no order


class OcrMissing(ValueError):
    """Tesseract, or the package that calls it, is not installed."""


class Tesseract(NamedTuple):
    """Tesseract's program, through pytesseract. language: as `tesseract --list-langs` has it, such as "eng"."""

    language: str

    @classmethod
    def load(cls, language: str) -> "Tesseract":
        """Return it. Raises OcrMissing without pytesseract, without the program, or without the language."""
        if absent := [name for name in ("pytesseract", "rapidfuzz") if find_spec(name) is None]:
            raise OcrMissing(f"scorer ocr: {', '.join(absent)} not installed; pip install 'lightgen[ocr]'")
        import pytesseract

        try:
            there = pytesseract.get_languages(config="")
        except (pytesseract.TesseractNotFoundError, OSError) as error:
            raise OcrMissing("scorer ocr: tesseract is not installed; on Debian: apt install tesseract-ocr") from error
        if missing := [name for name in language.split("+") if name not in there]:
            raise OcrMissing(f"scorer ocr: tesseract has no language {', '.join(missing)}; it has {', '.join(there)}")
        return cls(language)

    def read(self, image: UInt8[np.ndarray, "height width 3"]) -> str:
        """Return the text in an image."""
        import pytesseract

        original = Image.fromarray(image)
        scale = _SIDE / max(original.size)
        size = (round(original.width * scale), round(original.height * scale))
        larger = original.resize(size, Image.Resampling.LANCZOS)
        return pytesseract.image_to_string(larger, lang=self.language, config=_SPARSE)


def quoted_text(caption: str) -> str | None:
    """Return the words that a caption puts in quotes, several quotations with spaces between; None without any."""
    found = [next(part for part in match if part) for match in _QUOTED.findall(caption)]
    return " ".join(found) or None


def text_score(found: str, wanted: str) -> float:
    """Return 1 for text that holds the wanted one, else 1 less their edit distance by wanted characters, at least 0.

    Case, spaces and punctuation do not count, as in the reward of Flow-GRPO (Liu et al. 2025, arXiv 2505.05470).
    """
    from rapidfuzz.distance import Levenshtein

    found, wanted = _plain(found), _plain(wanted)
    if wanted in found:
        return 1.0
    return 1.0 - min(Levenshtein.distance(found, wanted), len(wanted)) / len(wanted)


def _plain(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def captions_without_text(captions: Sequence[str]) -> list[str]:
    """Return the captions that quote nothing that can be read."""
    return [caption for caption in captions if not _plain(quoted_text(caption) or "")]
