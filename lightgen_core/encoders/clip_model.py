"""CLIP models of transformers that score an image for a caption, as PickScore (Kirstain et al. 2023) does."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn import functional

from lightgen_core.encoders.model_ref import ModelNotFound, parse_model_ref


class ClipModel:
    """Scores images for captions: the scaled cosine of a CLIPModel's embeddings."""

    def __init__(self, model: Any, processor: Any, device: torch.device | str, batch_size: int = 64) -> None:
        self.model, self.processor = model.eval().requires_grad_(False).to(device), processor
        self.device, self.batch_size = torch.device(device), batch_size

    @classmethod
    def load(cls, reference: str, *, processor: str | None = None, device: torch.device | str = "cpu") -> Self:
        """Load a folder that `save_pretrained` wrote, or a hub id with a revision; safetensors only.

        processor: folder or hub id of its processor; None: beside the model.

        Raises:
            ModelNotFound: there is no such model, or it is no CLIPModel with its processor.
        """
        from transformers import AutoProcessor, CLIPModel

        try:
            model = CLIPModel.from_pretrained(**_source(reference), use_safetensors=True)
            return cls(model, AutoProcessor.from_pretrained(**_source(processor or reference)), device)
        except (OSError, ValueError) as error:
            found = f"{reference} holds no CLIPModel in safetensors, or {processor or 'it'} no processor"
            raise ModelNotFound(f"{found}: {error}") from error

    @torch.inference_mode()
    def scores(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], captions: Sequence[str]
    ) -> Float32[np.ndarray, " images"]:
        """Return exp(logit_scale) times the cosine of each image, of any size, with its caption."""
        scores = []
        for start in range(0, len(images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            inputs = self.processor(
                images=list(images[rows]),
                text=list(captions[rows]),
                padding=True,
                truncation=True,
                return_tensors="pt",
                input_data_format="channels_last",
            ).to(self.device)
            outputs = self.model(**inputs)
            vectors = (outputs[name].float() for name in ("image_embeds", "text_embeds"))
            image, text = (functional.normalize(vector, dim=-1) for vector in vectors)
            scores.append(self.model.logit_scale.exp() * (image * text).sum(dim=-1))
        return torch.cat(scores).cpu().numpy() if scores else np.zeros(0, np.float32)


def _source(reference: str) -> dict[str, Any]:
    where = parse_model_ref(reference)
    if where.path is not None:
        return {"pretrained_model_name_or_path": str(where.path)}
    return {"pretrained_model_name_or_path": where.repository, "revision": where.revision}
