"""The vision-language model that `--judge` names: loaded here, or asked at LIGHTGEN_VLM_URL."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from flows.errors import UserError
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.vlm.config import VlmConfig
from tasks.config.settings import Settings
from tasks.context.digests import weights_digest
from tasks.vlm import open_vlm

if TYPE_CHECKING:
    import torch

    from lightgen_core.vlm.vlm import Vlm

IN_PROCESS = "transformers:"
"""Beginning of the name of a judge that is loaded here; others are asked at LIGHTGEN_VLM_URL."""


class AskedModel:
    """A judge by its name; opening it loads the weights or the connection."""

    def __init__(self, name: str, max_new_tokens: int = 16) -> None:
        """Look for the model, without torch. Raises UserError if it is a path at which nothing is."""
        self.name, here = name, name.startswith(IN_PROCESS)
        self._config = VlmConfig(
            model=name.removeprefix(IN_PROCESS),
            backend="transformers" if here else "endpoint",
            max_new_tokens=max_new_tokens,
        )
        self._connections = ExitStack()  # as long as the judge
        try:
            self._weights = weights_digest(self._config.model) if here else None
        except ModelNotFound as error:
            raise UserError(f"--judge {name}: {error}") from error

    def identity(self) -> Mapping[str, Any]:
        """Return the address, or the digest of the weights and their type."""
        if self._config.backend == "endpoint":
            return {"url": Settings().vlm_url}
        return {"weights": self._weights, "dtype": self._config.dtype}

    def open(self, device: "torch.device") -> "Vlm":
        """Return the model. Raises UserError for an address, a key or a model that cannot be used."""
        from lightgen_core.endpoint import EndpointError

        try:
            return open_vlm(self._config, Settings(), lambda: device, self._connections)
        except (EndpointError, OSError, ValueError) as error:
            raise UserError(f"--judge {self.name}: {error}") from error


@contextmanager
def judging(instead: str) -> Iterator[None]:
    """Turn an endpoint's failures into UserError; `instead` names what needs no probabilities of tokens."""
    from lightgen_core.endpoint import EndpointError
    from lightgen_core.vlm.endpoint import NoLogprobs

    try:
        yield
    except NoLogprobs as error:
        raise UserError(f"{error}; {instead}") from error
    except EndpointError as error:
        raise UserError(f"{error}\nImages that were judged are kept where -o was given.") from error
