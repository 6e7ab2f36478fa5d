"""Images that exist as a source: what other software has generated, in GenEval's layout or any captioned set."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.checkpoint import Checkpoint
from flows.commands.evaluate_options import EvaluationOptions
from flows.errors import UserError
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.images.image_set import ImageSet, open_image_set
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import ByteRange, ImageSetError, Sample
from lightgen_core.rejected import Rejected
from tasks.config.recipe import Recipe
from tasks.context.digests import content_digest

if TYPE_CHECKING:
    import torch

    from flows.commands.evaluate_request import Generate, Request

MAX_PIXELS = 1 << 26
_BATCH = 64  # images
_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
_Place = Path | ByteRange


class ImageSource:
    """Images by their captions: of GenEval's folders, or of a set as `synthesis.files.path` names it."""

    batch_size = _BATCH
    checkpoint: Checkpoint | None = None

    def __init__(self, location: str, options: EvaluationOptions, recipe: Recipe) -> None:
        if any(option is not None for option in (options.steps, options.cfg, options.size)):
            raise UserError("images that exist take no --steps, --cfg or --size")
        self.location, self._set = location, None
        self._rows = _geneval_rows(Path(location).expanduser())
        if self._rows:
            self._places: Mapping[str, Sequence[_Place]] = _geneval_places(self._rows)
        else:
            try:
                self._set = open_image_set(location)
                self._places = _set_places(self._set)
            except ImageSetError as error:
                raise UserError(
                    f"{error}\nimages: takes folders as GenEval writes them (00000/metadata.jsonl, 00000/samples/), or "
                    "a set of captioned images: a folder, Parquet, tars"
                ) from error
        if not self._places:
            raise UserError(f"{location} holds no image with a caption")

    @property
    def prompts(self) -> list[Prompt]:
        """The captions as prompts, with the category that GenEval's layout gives them."""
        tags = {row["prompt"]: row.get("tag") for _, row in self._rows}
        return [Prompt(caption, str(tags.get(caption) or "captions"), caption) for caption in self._places]

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Rows of GenEval's metadata, where the layout has them with what they require; else none."""
        rows = [row for _, row in self._rows if "include" in row]
        return rows if len(rows) == len(self._rows) else []

    def images_each(self, captions: Iterable[str]) -> int:
        """Return the number of images that every caption has. Raises UserError if one has none."""
        wanted = list(captions)
        if missing := [caption for caption in wanted if caption not in self._places]:
            raise UserError(
                f"{self.location} has no image of {len(missing)} of the {len(wanted)} prompts, the first: "
                f"{missing[0]!r}. Generate them, or evaluate what is there: --benchmark prompts"
            )
        return min(len(self._places[caption]) for caption in wanted)

    def identity(self) -> Mapping[str, Any]:
        """Return the digest of the set."""
        return {"images": content_digest(self.location)}

    def load(self, device: "torch.device") -> "Generate":
        """Return the reader of images."""
        return self._read

    def _read(self, requests: Sequence["Request"]) -> Iterator[np.ndarray | Rejected]:
        decoder, places = SafeImageDecoder(MAX_PIXELS), [self._place(request) for request in requests]
        ranges = [place for place in places if isinstance(place, ByteRange)]
        read = iter(self._set.read(ranges) if self._set is not None else ())
        for place in places:
            data = place.read_bytes() if isinstance(place, Path) else next(read)
            try:
                yield data if isinstance(data, Rejected) else decoder.decode(data)
            except Rejected as error:
                yield error.without_frames()

    def _place(self, request: "Request") -> _Place:
        places = self._places[request.caption]
        if request.number >= len(places):
            raise UserError(
                f"{self.location} has {len(places)} images of {request.caption!r}; give --images {len(places)}"
            )
        return places[request.number]


def _geneval_rows(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the prompt folders of GenEval's layout with their metadata; none for any other form."""
    rows = []
    for path in sorted(folder.glob("*/metadata.jsonl")) if folder.is_dir() else ():
        if not (path.parent / "samples").is_dir():
            continue
        try:
            row = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise UserError(f'{path} names no prompt; expected {{"prompt": "a photo of a bench"}}')
        rows.append((path.parent, row))
    return rows


def _geneval_places(rows: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, list[_Place]]:
    places: defaultdict[str, list[_Place]] = defaultdict(list)
    for folder, row in rows:
        found = sorted(path for path in (folder / "samples").iterdir() if path.suffix.lower() in _IMAGES)
        places[row["prompt"]] += found
    return {caption: found for caption, found in places.items() if found}


def _set_places(image_set: ImageSet) -> dict[str, list[_Place]]:
    places: defaultdict[str, list[_Place]] = defaultdict(list)
    for sample in image_set.samples():
        if isinstance(sample, Sample):
            places[sample.caption].append(sample.byte_range)
    return dict(places)
