"""The frozen CLIP: pictures and captions to unit vectors of one space (open_clip)."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lightgen_core.zoo.paths import resolve


class ClipError(ValueError):
    """A reference that names no CLIP we can load, or pictures that are not pictures."""


class Clip:
    """Embeds pictures uint8 (n, height, width, 3) and captions as float32 (n, width) unit vectors."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | str, batch_size: int = 256) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.preprocessing = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        self.width = int(self.embed_texts(["a picture"]).shape[1])

    @classmethod
    def load(
        cls, reference: str, *, device: torch.device | str = "cpu", precision: str = "fp32", cache: str | None = None
    ) -> Self:
        """Load a zoo reference ("zoo:clip"), a folder as open_clip saves it, or "MODEL/PRETRAINED" (a tag or a file).

        Examples of the last: "ViT-B-32-SigLIP2-256/webli", "ViT-L-14/openai". `precision` is open_clip's, `cache` the
        folder for downloads.

        Raises:
            ClipError: none of these.
        """
        where = resolve(reference)
        if Path(where).is_dir():
            if not (Path(where) / "open_clip_config.json").is_file():
                raise ClipError(f"{where} has no open_clip_config.json; give the folder that open_clip saved")
            name, pretrained = f"local-dir:{where}", None
        else:
            name, _, tag = where.partition("/")
            known = tag in open_clip.list_pretrained_tags_by_model(name) or Path(tag).is_file()
            if name not in open_clip.list_models() or not known:
                raise ClipError(_advice(reference, name))
            pretrained = tag
        model = open_clip.create_model(
            name,
            pretrained=pretrained,
            precision=precision,
            device=str(device),
            cache_dir=cache,
            require_pretrained=True,
        )
        return cls(model, open_clip.get_tokenizer(name, cache_dir=cache), device)

    @torch.inference_mode()
    def embed_images(self, images: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Unit vectors (n, width) of pictures uint8 (n, height, width, 3).

        Raises:
            ClipError: pictures of another type or shape.
        """
        pictures = torch.as_tensor(images)
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
            found = f"{pictures.dtype} {tuple(pictures.shape)}"
            raise ClipError(f"found pictures of {found}, expected uint8 (n, height, width, 3)")
        batches = pictures.split(self.batch_size)
        return _joined([self.model.encode_image(self._prepared(batch), normalize=True) for batch in batches])

    def embed_pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Unit vectors (n, width) of pictures (height, width, 3) of any sizes; those of one size go together."""
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, picture in enumerate(pictures):
            by_size[picture.shape].append(row)
        vectors = np.empty((len(pictures), self.width), np.float32)
        for rows in by_size.values():
            vectors[rows] = self.embed_images(np.stack([pictures[row] for row in rows]))
        return vectors

    @torch.inference_mode()
    def embed_texts(self, captions: list[str]) -> NDArray[np.float32]:
        """Unit vectors (n, width) of captions."""
        tokens = self.tokenizer(captions).to(self.device)
        return _joined([self.model.encode_text(batch, normalize=True) for batch in tokens.split(self.batch_size)])

    def scores(self, images: Sequence[NDArray[np.uint8]], captions: list[str]) -> NDArray[np.float32]:
        """Cosine of each picture (height, width, 3), of any size, with its caption: (n,)."""
        unique, back = np.unique(captions, return_inverse=True)
        text = self.embed_texts(unique.tolist())[back]
        return (self.embed_pictures(images) * text).sum(axis=1)

    def _prepared(self, pictures: Tensor) -> Tensor:
        """Resized, cropped and normalised as the model's configuration says, a batch at a time: (n, 3, side, side)."""
        asked = self.preprocessing
        values = pictures.to(self.device).permute(0, 3, 1, 2)
        size = [asked.size, asked.size] if isinstance(asked.size, int) else list(asked.size)
        if list(values.shape[2:]) != size:
            values = resized(values, size, asked)
        mean, deviation = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (asked.mean, asked.std))
        return ((values.float() / 255 - mean) / deviation).to(next(self.model.parameters()).dtype)


def resized(values: Tensor, size: list[int], asked: open_clip.transform.PreprocessCfg) -> Tensor:
    """Pictures (n, 3, height, width) brought to `size`: squashed, or scaled by one edge and then cropped or padded."""
    source = values.shape[2:]
    scales = [wanted / found for wanted, found in zip(size, source, strict=True)]
    scaled = size
    if asked.resize_mode != "squash":
        scale = max(scales) if asked.resize_mode == "shortest" else min(scales)
        scaled = [max(1, int(edge * scale + 1e-6)) for edge in source]
    mode = transforms.InterpolationMode(asked.interpolation)
    values = transforms.resize(values, scaled, interpolation=mode, antialias=True)
    if scaled != size:
        # torchvision's CenterCrop rounds the cropped margin to even, its padding down; a negative padding crops.
        spare = [wanted - found for wanted, found in zip(size[::-1], scaled[::-1], strict=True)]
        left, top = (room // 2 if room > 0 else -round(-room / 2) for room in spare)
        right, bottom = size[1] - scaled[1] - left, size[0] - scaled[0] - top
        values = transforms.pad(values, [left, top, right, bottom], fill=asked.fill_color)
    return values


def _joined(parts: list[Tensor]) -> NDArray[np.float32]:
    return torch.cat(parts).float().cpu().numpy()


def _advice(reference: str, name: str) -> str:
    if name not in open_clip.list_models():
        return (
            f"found CLIP {reference!r}; expected zoo:clip, a folder with open_clip_config.json, or MODEL/PRETRAINED "
            "such as ViT-B-32/openai (open_clip.list_pretrained() names them all)"
        )
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none: give a file"
    return f"found CLIP {reference!r}; the pretrained tags of {name} are {tags}"
