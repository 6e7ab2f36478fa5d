"""Text in images: what a caption asks to be written, what is read, and how far apart they are."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from lightgen_core.evaluation.ocr import OcrMissing, Tesseract, quoted_text, text_score
from lightgen_core.evaluation.scorer_config import ScorerConfig
from lightgen_core.evaluation.scorers import ScorerError, load_scorers

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract is not installed: apt install tesseract-ocr"
)


def image(text: str, side: int = 256) -> np.ndarray:
    page = Image.new("RGB", (side, side), "white")
    font = ImageFont.load_default(size=side / 8)
    ImageDraw.Draw(page).text((side / 10, side / 3), text, fill="black", font=font)
    return np.asarray(page)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ('a sign that says "OPEN"', "OPEN"),
        ("a poster with \u201cHello World\u201d on it", "Hello World"),
        ("a mug with 'I love tea' printed on it", "I love tea"),
        ('"EXIT" above a door that says "Staff only"', "EXIT Staff only"),
        ("« Fermé » on a door", " Fermé "),
        ("a dog's bowl at the neighbours' house", None),
        ("a red circle", None),
    ],
)
def test_quoted_words_are_what_is_asked_for(caption, text):
    assert quoted_text(caption) == text


@pytest.mark.parametrize(
    ("found", "wanted", "score"),
    [
        ("OPEN", "open", 1),
        ("we are\nO P E N\ntoday", "Open!", 1),
        ("OPEM", "OPEN", 0.75),
        ("", "OPEN", 0),
        ("something else entirely", "OPEN", 0),
        ("PE", "OPEN", 0.5),
    ],
)
def test_a_score_falls_with_the_edit_distance(found, wanted, score):
    assert text_score(found, wanted) == pytest.approx(score)


@needs_tesseract
def test_written_words_are_read_at_any_size_of_image():
    score = load_scorers([ScorerConfig(kind="ocr")], "zoo:clip", torch.device("cpu"))
    images = [image("OPEN"), image("OPEN", 96), image("Bakery 24", 640), image("")]
    captions = ['a sign "OPEN"', 'a sign "OPEN"', 'a shop named "Bakery 24"', 'a sign "OPEN"']
    assert score(images, captions)["ocr"].tolist() == [1, 1, 1, 0]
    assert score(images, [captions[2], *captions[1:]])["ocr"][0] < 0.4
    with pytest.raises(ScorerError, match="1 of 4 captions quote no text, the first: 'a red circle'"):
        score(images, ["a red circle", *captions[1:]])


@needs_tesseract
def test_a_language_that_is_not_there_is_named():
    with pytest.raises(OcrMissing, match=r"no language xyz; it has .*eng"):
        Tesseract.load("eng+xyz")


def test_without_the_program_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pytesseract.pytesseract.tesseract_cmd", "/nowhere/tesseract")
    with pytest.raises(OcrMissing, match="tesseract is not installed; on Debian: apt install tesseract-ocr"):
        Tesseract.load("eng")
