"""OWLv2: the surest box of each name, in px of an image of 480."""

import numpy as np
import pytest

from lightgen_core.evaluation.compbench import SIDE
from lightgen_core.evaluation.open_detector import OpenDetector, OpenDetectorError
from tests.factories.tiny_compbench import save_tiny_blip, save_tiny_owl

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return OpenDetector.load(save_tiny_owl(tmp_path_factory.mktemp("owl") / "model"))


def test_a_box_lies_in_an_image_of_480_px_of_any_size(detector):
    found = detector.find(IMAGE, ["cup"])["cup"]
    larger = detector.find(np.repeat(np.repeat(IMAGE, 2, 0), 2, 1), ["cup"])["cup"]
    assert 0.9 < found.score < 1
    left, top, right, bottom = found.box
    assert (right - left, bottom - top) == pytest.approx((SIDE / 2, SIDE / 2), abs=0.1)
    assert larger.score == pytest.approx(found.score, abs=0.05)
    assert larger.box[2] - larger.box[0] == pytest.approx(SIDE / 2, abs=0.1)


def test_only_names_that_were_asked_for_are_found(detector):
    found = detector.find(IMAGE, ["cup", "dog", "cup"])
    assert set(found) <= {"cup", "dog"} and found


def test_a_model_that_takes_no_names_is_refused(tmp_path):
    with pytest.raises(OpenDetectorError, match="is a model of type blip, expected owlvit or owlv2"):
        OpenDetector.load(save_tiny_blip(tmp_path / "model"))
