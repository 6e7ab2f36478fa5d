"""Names and drawings, out of packages made here."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from lightgen_core.emoji.artists import Artist, _files, _icons, on_white
from lightgen_core.emoji.names import Emoji, load_names, plain_code, slugify
from lightgen_core.emoji.packages import Package

pytest.importorskip("resvg_py", reason="resvg-py draws: pip install 'lightgen[pictures]'")

NAMES = {
    "1f34e": Emoji("1f34e", "red apple", "food and drink"),
    "1f44b": Emoji("1f44b", "waving hand", "people"),
    "1f44b-1f3fb": Emoji("1f44b-1f3fb", "waving hand: light skin tone", "people"),
}


def artist(read) -> Artist:
    return Artist("mine", "my style", "Somebody", "CC0-1.0", Package("mine", "1.0.0"), read)


def test_names_keep_tones_and_lose_variation_selectors(tmp_path):
    entry = {
        "hexcode": "270B",
        "label": "raised “hand”",
        "group": 1,
        "skins": [{"hexcode": "270B-1F3FB", "label": "x"}],
    }
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "data.json").write_text(json.dumps([entry, {"hexcode": "2764-FE0F", "label": "red heart"}]))
    names = load_names(tmp_path)
    assert list(names) == ["270b", "270b-1f3fb", "2764"]
    assert (names["270b"].label, names["270b"].group, names["2764"].group) == ("raised hand", "people", "other")
    assert (names["270b-1f3fb"].concept, names["270b-1f3fb"].has_tone, names["270b"].has_tone) == ("270b", True, False)


@pytest.mark.parametrize(
    ("text", "slug"), [("Piñata", "pinata"), ("eight o'clock", "eight-oclock"), ("A & B", "a-b"), ("--x--", "x")]
)
def test_slugs(text, slug):
    assert slugify(text) == slug


def test_codes_lose_variation_selectors():
    assert plain_code("2764-FE0F-200D-1F525") == "2764-200d-1f525"


def test_icons_are_drawn_in_their_view_box_on_white(tmp_path):
    """Found by the package's table of codes, or by the slug; hidden and unknown ones are left out."""
    body = '<rect x="8" y="0" width="8" height="16" fill="#ff0000"/>'
    icons = {
        "apple": {"body": body},
        "waving-hand": {"body": body, "width": 32},
        "old": {"body": body, "hidden": True},
        "unknown": {"body": body},
    }
    (tmp_path / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
    (tmp_path / "chars.json").write_text(json.dumps({"1F34E": "apple", "1f44b-1f3fb": "old"}))
    drawings = list(_icons(artist(_icons), tmp_path, NAMES, 32))
    assert [drawing.key for drawing in drawings] == ["mine_red-apple", "mine_waving-hand"]
    assert drawings[0].caption == "red apple, my style"
    apple, hand = (np.asarray(drawing.draw()) for drawing in drawings)
    assert apple.shape == hand.shape == (32, 32, 3)
    assert (apple[:, :15] == 255).all()
    assert (apple[:, 17:] == (255, 0, 0)).all()
    # Twice as wide: half as large, in the middle of the square; red from 8 to 16 of 32 units.
    assert (hand[16, 9:15] == (255, 0, 0)).all()
    assert (hand[[0, 31]] == 255).all()
    assert (hand[:, 17:] == 255).all()


def test_files_are_found_by_code(tmp_path):
    for name in ("1f44b_1f3fb", "1f600"):
        Image.new("RGBA", (4, 2), (0, 0, 255, 255)).save(tmp_path / f"{name}.png")
    (drawing,) = _files("*.png")(artist(_files("*.png")), tmp_path, NAMES, 8)
    assert (drawing.emoji.code, drawing.source) == ("1f44b-1f3fb", "1f44b_1f3fb.png")
    image = np.asarray(drawing.draw())
    assert (image[2:6] == (0, 0, 255)).all()
    assert (image[[0, 1, 6, 7]] == 255).all()


def test_transparency_becomes_white():
    encoded = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(encoded, "PNG")
    assert (np.asarray(on_white(encoded.getvalue(), 8)) == 255).all()
