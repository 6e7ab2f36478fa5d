"""Where the zoo's models lie, and what identifies a model in an artifact's key. Free of torch."""

import hashlib
from importlib import resources
from pathlib import Path

PREFIX = "zoo:"
MODELS = ("autoencoder", "clip", "t5")
_WEIGHTS = "*.safetensors"
_BLOCK = 1 << 20


class ModelNotFound(ValueError):
    """A reference to a model that is not there."""


def resolve(reference: str) -> str:
    """The packaged folder of a zoo reference ("zoo:autoencoder"); any other reference unchanged.

    Raises:
        ModelNotFound: a zoo reference to a model that the zoo does not have.
    """
    if not reference.startswith(PREFIX):
        return reference
    name = reference.removeprefix(PREFIX)
    if name not in MODELS:
        wanted = ", ".join(PREFIX + model for model in MODELS)
        raise ModelNotFound(f"found model {reference!r}; the zoo has {wanted}; other models go by folder or hub id")
    return str(resources.files("lightgen_core.zoo") / name)


def digest(reference: str, revision: str | None = None) -> str | None:
    """What tells this model's weights from any other's, for artifact keys.

    A folder, the zoo's among them: sha256 over the names and bytes of its weights (safetensors) and JSON files, so
    the same model in another place has the same digest. Anything else is a hub id or an open_clip tag: `revision`.

    Raises:
        ModelNotFound: a folder without weights.
    """
    folder = Path(resolve(reference))
    if not folder.is_dir():
        return revision
    weights = sorted(path for path in folder.rglob(_WEIGHTS) if path.is_file())
    if not weights:
        raise ModelNotFound(f"{folder} holds no {_WEIGHTS}; give the folder that save_pretrained wrote")
    total = hashlib.sha256()
    for path in sorted([*weights, *folder.rglob("*.json")]):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total.update(block)
    return total.hexdigest()
