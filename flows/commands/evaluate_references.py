"""Images that an evaluated set is compared with: a folder, a captioned set, or an artifact of a store."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from flows.distill import ALL_NAMES
from flows.errors import UserError
from lightgen_core.images.codec import crop_and_resize
from lightgen_core.images.image_set import ImageSet, open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import IMAGE_SUFFIXES, ImageSetError, Sample
from lightgen_core.images.walk import walk
from lightgen_core.rejected import Rejected
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import Settings

MAX_PIXELS = 1 << 26
_BATCH = 64  # images
_SAMPLES = {"synthesis": r"^images-.*\.parquet$", "evaluation": r"^samples-.*\.parquet$"}
"""Stages whose artifacts hold images, and their files."""


class ReferenceImages:
    """At most `limit` images of a set, chosen by a seed. Finding them reads no image."""

    def __init__(self, location: str | Artifact, store_uri: str | None, limit: int, seed: int) -> None:
        self.location = location if isinstance(location, str) else location.path
        self._files: list[Path] = []
        self._sets: list[tuple[str, ImageSet, list[Sample]]] = []
        artifact = location if isinstance(location, Artifact) else _artifact(location, store_uri)
        if artifact is not None:
            self._open_artifact(artifact)
        else:
            self._open(str(location))
        self.count = len(self._files) + sum(len(samples) for _, _, samples in self._sets)
        if self.count < 2:
            raise UserError(f"{self.location} holds {self.count} images; a comparison needs two or more")
        self.read = min(limit, self.count)
        chosen = np.random.default_rng(seed).permutation(self.count)[: self.read]
        self._chosen = set(chosen.tolist())

    def batches(self, shape: tuple[int, int]) -> Iterator[tuple[list[str], list[np.ndarray]]]:
        """Yield names and images, cropped to the ratio of height and width and resized to them.

        Raises:
            UserError: an image cannot be read.
        """
        names: list[str] = []
        images: list[np.ndarray] = []
        decoder = SafeImageDecoder(MAX_PIXELS)
        for name, data in self._encoded():
            try:
                if isinstance(data, Rejected):
                    raise data
                images.append(crop_and_resize(decoder.decode(data), *shape))
            except Rejected as error:
                raise UserError(f"{name} of {self.location} cannot be compared with: {error}; take it out") from error
            names.append(name)
            if len(names) == _BATCH:
                yield names, images
                names, images = [], []
        if names:
            yield names, images

    def _encoded(self) -> Iterator[tuple[str, bytes | Rejected]]:
        for row, path in enumerate(self._files):
            if row in self._chosen:
                yield str(path), path.read_bytes()
        start = len(self._files)
        for prefix, image_set, samples in self._sets:
            wanted = [sample for row, sample in enumerate(samples, start) if row in self._chosen]
            read = image_set.read([sample.byte_range for sample in wanted])
            for sample, data in zip(wanted, read, strict=True):
                yield f"{prefix}{sample.key}", data
            start += len(samples)

    def _open(self, location: str) -> None:
        folder = Path(location).expanduser()
        if folder.is_dir():
            self._files = sorted(path for path in walk(folder) if path.suffix[1:].lower() in IMAGE_SUFFIXES)
        if not self._files:
            self._add(location, "")

    def _open_artifact(self, artifact: Artifact) -> None:
        copies = Path(Settings().scratch).expanduser() / "inputs"
        for name in artifact.names(_SAMPLES[artifact.stage]):
            self._add(str(artifact.local(name, copies)), f"{artifact.path}/{name}:")

    def _add(self, location: str, prefix: str) -> None:
        try:
            image_set = open_image_set(location)
            samples = [sample for sample in image_set.samples() if isinstance(sample, Sample)]
        except ImageSetError as error:
            raise UserError(f"{error}\nGive a folder of images, Parquet, or an artifact: synthesis/KEY") from error
        self._sets.append((prefix, image_set, samples))


def _artifact(location: str, store_uri: str | None) -> Artifact | None:
    """Return the artifact that STAGE/KEY names; None for any other location."""
    stage, slash, start = location.partition("/")
    if not slash or stage not in ALL_NAMES or "/" in start or Path(location).exists():
        return None
    if stage not in _SAMPLES:
        raise UserError(f"an artifact of {stage} holds no images; those of {', '.join(_SAMPLES)} do")
    store = open_store(store_uri or Settings().store)
    keys = [key for key in store.folders(stage) if key.startswith(start)]
    if len(keys) != 1:
        raise UserError(f"{location} names {len(keys)} artifacts of {store.uri}; see `lightgen store ls`")
    return Artifact(store, stage, keys[0])


def names_of(metrics: str | None) -> Sequence[str]:
    """Return the names in a list with commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (metrics or "").split(",") if name.strip()))
