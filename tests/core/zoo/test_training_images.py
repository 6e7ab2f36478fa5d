"""Training data of the general components: any images, those that cannot be read counted, and dead leaves."""

import logging

import numpy as np
import pytest
from PIL import Image

from lightgen_core.zoo.training_images import dead_leaves, halved, load_captioned, load_images, resized


@pytest.fixture
def folder(tmp_path):
    for number, (size, mode) in enumerate([((40, 20), "RGB"), ((9, 30), "L"), ((16, 16), "RGBA")]):
        Image.new(mode, size, {"RGB": (200, 0, 0), "L": 90, "RGBA": (0, 0, 255, 0)}[mode]).save(
            tmp_path / f"{number}.png"
        )
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (8, 8), "green").save(tmp_path / "deep" / "photo.JPG", "JPEG")
    (tmp_path / "deep" / "broken.webp").write_bytes(b"RIFF nothing")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    return tmp_path


def test_a_folder_without_captions_is_read_faults_are_counted(folder, caplog):
    caplog.set_level(logging.INFO)
    images = load_images(str(folder), 8, threads=2)
    assert images.shape == (4, 8, 8, 3)
    assert images.dtype == np.uint8
    assert (images[1] == 90).all(), "grey is read as colours"
    assert (images[2] == 255).all(), "transparent is white"
    assert "4 images, 1 that cannot be decoded" in caplog.text


def test_captions_stay_with_their_images(tmp_path):
    for number, (color, caption) in enumerate([("red", "a wall"), ("blue", "the sky"), ("green", "a lawn")]):
        Image.new("RGB", (12, 12), color).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    (tmp_path / "1.png").write_bytes(b"\x89PNG damaged")
    images, captions = load_captioned(str(tmp_path), 4, threads=2)
    assert captions == ["a wall", "a lawn"]
    assert images[:, 0, 0].tolist() == [[255, 0, 0], [0, 128, 0]]


def test_halving_takes_the_mean_of_four():
    image = np.array([[[0], [4]], [[8], [12]]], np.uint8).repeat(3, axis=2)[None]
    assert halved(image).tolist() == [[[[6, 6, 6]]]]
    assert resized(np.full((2, 8, 8, 3), 7, np.uint8), 6).shape == (2, 6, 6, 3)


def test_dead_leaves_are_repeatable_and_varied():
    first, again = (dead_leaves(6, 32, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (6, 32, 32, 3)
    assert (first == again).all()
    assert len({image.tobytes() for image in first}) == 6
    assert first.std(axis=(1, 2)).mean() > 15, "not plain"
