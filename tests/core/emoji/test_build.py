"""The set, small, out of the real packages. Skipped where npm or a registry is not there."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lightgen_core.dedup.copy_features import copy_features
from lightgen_core.emoji.build import built_set
from lightgen_core.emoji.packages import PACKAGES, PackagesUnavailable, fetch
from lightgen_core.images.codec import decode_image
from lightgen_core.images.image_set import open_image_set
from lightgen_core.images.location import LocationError, local_path
from lightgen_core.images.sample import Sample

pytest.importorskip("resvg_py", reason="resvg-py draws: pip install 'lightgen[pictures]'")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Return a user's cache with the packages in it, which the real cache keeps from run to run."""
    kept = Path("~/.cache/lightgen/emoji/packages").expanduser()
    try:
        folders = [fetch(package, kept) for package in PACKAGES]
    except PackagesUnavailable as error:
        pytest.skip(f"packages of emoji cannot be had: {error}")
    packages = tmp_path_factory.mktemp("cache") / "lightgen" / "emoji" / "packages"
    packages.mkdir(parents=True)
    for folder in folders:
        (packages / folder.name).symlink_to(folder)
    return packages.parents[2]


@pytest.fixture(scope="module")
def small(cache) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return built_set("emoji-small")


def keys_of(folder: Path) -> list[str]:
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [name for name in tar.getnames() if name.endswith(".png")]
    return [name.removesuffix(".png") for name in names]


def test_training_never_sees_what_is_held_out(small):
    prompts = [json.loads(line) for line in (small / "held-out" / "prompts.jsonl").read_text().splitlines()]
    keys = keys_of(small / "train")
    assert len(prompts) == 8
    assert not {prompt["key"] for prompt in prompts} & set(keys)
    for prompt in prompts:
        style, concept = prompt["key"].split("_")
        others = [key for key in keys if key.split("_")[1] == concept and key.split("_")[0] != style]
        assert len(others) >= 3, f"{concept} is seen in the other styles"
        assert (small / "held-out" / f"{prompt['key']}.txt").read_text() == prompt["caption"]
    artwork = {key.split("_")[1] for key in keys if key.startswith("noto-64px_")}
    held_noto = {prompt["key"].split("_")[1] for prompt in prompts if prompt["category"] == "noto"}
    assert not artwork & held_noto, "not in another rendering either"


def test_set_reads_without_a_fault(small):
    image_set = open_image_set(small / "train")
    samples = list(image_set.samples())
    assert all(isinstance(sample, Sample) for sample in samples)
    assert image_set.form == "webdataset"
    assert len(samples) == len(keys_of(small / "train")) > 400
    assert {"scorpion, Noto emoji style"} <= {sample.caption for sample in samples}
    pictures = open_image_set(small / "held-out")
    assert sum(isinstance(sample, Sample) for sample in pictures.samples()) == 8


def test_labels_of_copies_are_true(small):
    image_set = open_image_set(small / "train")
    samples = list(image_set.samples())
    pictures = {
        sample.key.rpartition("/")[2]: decode_image(data)
        for sample, data in zip(samples, image_set.read([sample.byte_range for sample in samples]), strict=True)
    }
    truth = json.loads((small / "duplicates.json").read_text())
    equal = truth["duplicates"]["identical pixels"]
    assert len(equal) > 20
    labelled = set()
    for keys in equal:
        assert len({pictures[key].tobytes() for key in keys}) == 1
        labelled |= set(keys)
    rest = [image.tobytes() for key, image in pictures.items() if key not in labelled]
    assert len(set(rest)) == len(rest), "no others are equal"
    for one, other in truth["duplicates"]["one artwork rendered otherwise"]:
        near = np.unpackbits(
            np.frombuffer(copy_features(pictures[one]).hashes[:8], np.uint8)
            ^ np.frombuffer(copy_features(pictures[other]).hashes[:8], np.uint8)
        ).sum()
        assert near <= 24, (one, other)


def test_credits_name_every_artist(small):
    credits = (small / "CREDITS.md").read_text()
    for words in ("Google", "Twitter, Inc and other contributors", "Microsoft", "CC-BY-4.0", "Apache-2.0", "MIT"):
        assert words in credits


def test_set_is_built_once_and_the_same_again(small, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert local_path("zoo:emoji-small/train") == str(small / "train")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "lightgen" / "emoji").mkdir(parents=True)
    (tmp_path / "lightgen" / "emoji" / "packages").symlink_to(cache / "lightgen" / "emoji" / "packages")
    again = Path(local_path("zoo:emoji-small"))
    assert again != small
    for path in sorted(small.rglob("*.*")):
        assert (again / path.relative_to(small)).read_bytes() == path.read_bytes()


def test_unknown_set_names_those_there_are():
    with pytest.raises(LocationError, match="no set 'emojis'; choose emoji"):
        local_path("zoo:emojis")
