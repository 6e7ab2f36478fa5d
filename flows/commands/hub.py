"""What the Hugging Face hub says of a model: asked in two short requests, nothing downloaded."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from lightgen_core.encoders.model_ref import ModelRef

TIMEOUT = 5.0
"""Seconds after which the hub counts as unreachable."""


class HubError(Exception):
    """The hub does not give the model: it cannot be reached, has no such model or revision, or asks for consent."""


@dataclass(frozen=True)
class HubModel:
    """A model as the hub has it. commit: of the revision; gigabytes: of its safetensors; licence: as its card says."""

    commit: str
    gigabytes: float
    licence: str
    gated: bool


def look_up(reference: ModelRef) -> HubModel:
    """Ask the hub for a model, and for leave to download it.

    Raises:
        HubError: says why it cannot be had.
    """
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{reference.repository}"
    revision = reference.revision or "main"
    with _open(
        f"{constants.ENDPOINT}/api/models/{reference.repository}/revision/{revision}?blobs=true", page
    ) as answer:
        about: dict[str, Any] = json.load(answer)
    folder = f"{reference.subfolder}/" if reference.subfolder else ""
    files = {file["rfilename"]: file.get("size") or 0 for file in about.get("siblings", [])}
    weights = [name for name in files if name.startswith(folder) and name.endswith(".safetensors")]
    if not weights:
        raise HubError(f"{page} has no safetensors there, and other weights are not loaded")
    if about.get("gated"):
        with _open(f"{page}/resolve/{revision}/{weights[0]}", page, method="HEAD"):
            pass
    return HubModel(
        commit=about["sha"],
        gigabytes=sum(files[name] for name in weights) / 1e9,
        licence=str((about.get("cardData") or {}).get("license", "not said")),
        gated=bool(about.get("gated")),
    )


def _open(url: str, page: str, method: str = "GET") -> Any:
    from huggingface_hub import get_token

    headers = {"Authorization": f"Bearer {token}"} if (token := get_token()) else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise HubError(
                f"{page} wants consent, or does not exist: open it in a browser, agree, then `hf auth login`"
            ) from error
        if error.code == 404:
            raise HubError(f"{page} has no such model or revision") from error
        raise HubError(f"{page} answers {error.code}; try again later") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{page} cannot be reached: {error}") from error
