"""Heads on CLIP embeddings: linear layers in a safetensors file, as LAION's aesthetic predictor has them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import erf, expit

from lightgen_core.filters.config import EmbeddingHeadConfig

_NUMBER = re.compile(r"\d+")


class HeadError(ValueError):
    """A file of weights that holds no head, or one for other embeddings."""


class EmbeddingHead:
    """Linear layers with an activation between them, the last of one value.

    Attributes:
        width: values of an embedding.
    """

    def __init__(self, config: EmbeddingHeadConfig, layers: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        self._config, self._layers = config, list(layers)
        self.width = self._layers[0][0].shape[1]

    @classmethod
    def load(cls, config: EmbeddingHeadConfig) -> Self:
        """Load tensors `<name>.weight` (out, in) and `<name>.bias` (out,), in the order of the numbers in the names.

        Raises:
            HeadError: the file cannot be read, or its tensors are not such layers.
        """
        field = f"head {config.name}: {config.weights}"
        try:
            tensors = {
                name: np.asarray(tensor) for name, tensor in load_file(Path(config.weights).expanduser()).items()
            }
        except (OSError, SafetensorError, TypeError, KeyError) as error:
            raise HeadError(f"{field} cannot be read: {error}; give float32 or float16 safetensors") from error
        names = sorted({name.rpartition(".")[0] for name in tensors if name.rpartition(".")[2] == "weight"}, key=_order)
        layers = []
        for name in names:
            weight, bias = (tensors.pop(f"{name}.{part}".lstrip("."), None) for part in ("weight", "bias"))
            if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise HeadError(f"{field}: {name or 'the layer'} has no weight (out, in) with a bias (out,)")
            layers.append((weight.astype(np.float32), bias.astype(np.float32)))
        if tensors or not layers:
            found = ", ".join(sorted(tensors)) or "no tensor"
            raise HeadError(f"{field}: found {found}; expected weights and biases of linear layers, and nothing else")
        for (before, _), (after, _), name in zip(layers, layers[1:], names[1:], strict=False):
            if before.shape[0] != after.shape[1]:
                raise HeadError(
                    f"{field}: {name} takes {after.shape[1]} values, the layer before gives {before.shape[0]}"
                )
        if layers[-1][0].shape[0] != 1:
            raise HeadError(f"{field}: the last layer gives {layers[-1][0].shape[0]} values; expected one score")
        return cls(config, layers)

    def scores(self, embeddings: Float32[np.ndarray, "n width"]) -> Float32[np.ndarray, " n"]:
        """Return the score of each unit embedding. Raises HeadError if their width is another."""
        if embeddings.shape[1] != self.width:
            raise HeadError(
                f"head {self._config.name} takes embeddings of {self.width} values, the CLIP gives "
                f"{embeddings.shape[1]}; set the one that the head was trained on"
            )
        values = embeddings
        for number, (weight, bias) in enumerate(self._layers):
            values = _activated(values, self._config.activation) if number else values
            values = values @ weight.T + bias
        scores = expit(values) if self._config.output == "sigmoid" else values
        return np.ascontiguousarray(scores[:, 0], np.float32)


def _activated(values: np.ndarray, activation: str) -> np.ndarray:
    if activation == "relu":
        return np.maximum(values, 0)
    return 0.5 * values * (1 + erf(values / np.sqrt(2))) if activation == "gelu" else values


def _order(name: str) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(name)], name
