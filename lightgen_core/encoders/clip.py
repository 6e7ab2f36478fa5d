"""The frozen CLIP: images and captions to unit vectors of one space (open_clip)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from lightgen_core.device import to_device
from lightgen_core.encoders.dtypes import PRECISIONS
from lightgen_core.encoders.model_ref import ModelRef, parse_model_ref
from lightgen_core.encoders.two_towers import CONFIG, load_two_towers

_FILES = ["open_clip_*.safetensors", "*.json", "*.txt", "*.model"]


class ClipError(ValueError):
    """A reference that names no CLIP we can load, or images that are not images."""


class Clip:
    """Embeds images uint8 (n, height, width, 3) and captions as float32 (n, width) unit vectors.

    With `fill_batches` the model sees batches of `batch_size` rows only, the last one filled up, so that a row's vector
    does not depend on how many others come with it: kernels for other shapes round differently.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str,
        batch_size: int = 256,
        precision: str = "fp32",
        fill_batches: bool = False,
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.batch_size, self.fill_batches = batch_size, fill_batches
        self._dtype = PRECISIONS[precision]
        self.preprocessing = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        of_channels = (self.preprocessing.mean, self.preprocessing.std)
        self._mean, self._deviation = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in of_channels)
        self.width = int(self.embed_texts(["an image"]).shape[1])

    @classmethod
    def load(
        cls,
        reference: str,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        batch_size: int = 256,
        fill_batches: bool = False,
    ) -> Self:
        """Load "zoo:clip", a folder as open_clip saves it, a hub id with a revision, or "MODEL/PRETRAINED".

        PRETRAINED is a tag of open_clip's or a safetensors file: "ViT-B-32-SigLIP2-256/webli",
        "ViT-B-32/weights.safetensors". Tags name no revision; "timm/ViT-B-32-SigLIP2-256@<commit>" does.

        Args:
            precision: of weights and arithmetic, open_clip's name: fp32, bf16 or fp16 (norms stay in fp32).

        Raises:
            ClipError: none of these.
            ModelNotFound: nothing is at the path.
        """
        architecture, _, tag = reference.partition("/")
        where = parse_model_ref(reference)
        if where.path is not None and (where.path / CONFIG).is_file():
            two_towers, tokenizer = load_two_towers(where.path)
            return cls(two_towers.to(PRECISIONS[precision]), tokenizer, device, batch_size, precision, fill_batches)
        pretrained = None
        if architecture in open_clip.list_models():
            if where.path is None and tag not in open_clip.list_pretrained_tags_by_model(architecture):
                tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none: give a file"
                raise ClipError(f"found CLIP {reference!r}; the pretrained tags of {architecture} are {tags}")
            if where.path is not None and where.path.suffix != ".safetensors":
                raise ClipError(f"{where.path} is not a safetensors file; convert it, since others can run code")
            name, pretrained = architecture, tag if where.path is None else str(where.path)
        else:
            name = f"local-dir:{_folder(where)}"
        model = open_clip.create_model(
            name, pretrained=pretrained, precision=precision, device=str(device), require_pretrained=True
        )
        return cls(model, open_clip.get_tokenizer(name), device, batch_size, precision, fill_batches)

    @torch.inference_mode()
    def embed_images(self, images: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Return unit vectors (n, width) of images uint8 (n, height, width, 3); ClipError for others."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ClipError(f"found images of {found}, expected uint8 (n, height, width, 3)")
        return self._unit(self.preprocess(images), self.model.encode_image)

    @torch.inference_mode()
    def embed_image_list(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return unit vectors (n, width) of images (height, width, 3) of any sizes."""
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            by_size[image.shape].append(row)
        order = [row for rows in by_size.values() for row in rows]
        groups = (torch.from_numpy(np.stack([images[row] for row in rows])) for rows in by_size.values())
        vectors = np.empty((len(images), self.width), np.float32)
        vectors[order] = self._unit(torch.cat([self.preprocess(group) for group in groups]), self.model.encode_image)
        return vectors

    @torch.inference_mode()
    def embed_texts(self, captions: list[str]) -> NDArray[np.float32]:
        """Return unit vectors (n, width) of captions."""
        return self._unit(to_device(self.tokenizer(captions), self.device), self.model.encode_text)

    def _unit(self, values: Tensor, encode: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        """Encode in batches; normalise vectors to norm 1 in fp32, whatever they were computed in."""
        missing = -len(values) % self.batch_size if self.fill_batches else 0
        filled = torch.cat([values, values[-1:].expand(missing, *values.shape[1:])])
        parts = [encode(batch) for batch in filled.split(self.batch_size)]
        return functional.normalize(torch.cat(parts)[: len(values)].float(), dim=-1).cpu().numpy()

    def scores(self, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosine (n,) of each image (height, width, 3), of any size, with its caption."""
        unique, inverse = np.unique(captions, return_inverse=True)
        text = self.embed_texts(unique.tolist())[inverse]
        return (self.embed_image_list(images) * text).sum(axis=1)

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise a batch as the model's configuration says: (n, 3, side, side)."""
        config = self.preprocessing
        values = to_device(images, self.device).permute(0, 3, 1, 2)
        size = [config.size, config.size] if isinstance(config.size, int) else list(config.size)
        if list(values.shape[2:]) != size:
            values = resized(values, size, config)
        return ((values.float() / 255 - self._mean) / self._deviation).to(self._dtype)


def resized(values: Tensor, size: list[int], config: open_clip.transform.PreprocessCfg) -> Tensor:
    """Bring images (n, 3, height, width) to `size`: squashed, or scaled by one edge and then cropped or padded."""
    source = values.shape[2:]
    scales = [target / edge for target, edge in zip(size, source, strict=True)]
    scaled = size
    if config.resize_mode != "squash":
        scale = max(scales) if config.resize_mode == "shortest" else min(scales)
        scaled = [max(1, int(edge * scale + 1e-6)) for edge in source]
    mode = transforms.InterpolationMode(config.interpolation)
    values = transforms.resize(values, scaled, interpolation=mode, antialias=True)
    if scaled != size:
        # torchvision's CenterCrop rounds the cropped margin to even, its padding down; a negative padding crops.
        spare = [target - edge for target, edge in zip(size[::-1], scaled[::-1], strict=True)]
        left, top = (room // 2 if room > 0 else -round(-room / 2) for room in spare)
        right, bottom = size[1] - scaled[1] - left, size[0] - scaled[0] - top
        values = transforms.pad(values, [left, top, right, bottom], fill=config.fill_color)
    return values


def _folder(where: ModelRef) -> Path:
    """Return a folder with open_clip's configuration and safetensors, downloaded if need be."""
    if where.path is not None:
        folder = where.path
    elif where.revision is None and where.here() is None:
        raise ClipError(
            f"found CLIP {where.text!r}; expected zoo:clip, a folder with open_clip_config.json, MODEL/PRETRAINED "
            "such as ViT-B-32/openai (open_clip.list_pretrained() names them all), or a hub id with its revision: "
            "org/name@commit"
        )
    else:
        folder = Path(snapshot_download(where.repository, revision=where.revision, allow_patterns=_FILES))
    if not (folder / "open_clip_config.json").is_file():
        raise ClipError(f"{folder} has no open_clip_config.json; give the folder that open_clip saved")
    if not list(folder.glob("*.safetensors")):
        raise ClipError(f"{folder} has no weights as safetensors; others can run code and are not loaded")
    return folder
