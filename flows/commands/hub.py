"""Metadata of Hugging Face hub models, without a download."""

from dataclasses import dataclass

from lightgen_core.encoders.model_ref import ModelRef

TIMEOUT_SECONDS = 5.0
"""Wait after which the hub counts as unreachable."""


class HubError(Exception):
    """The hub does not provide a model: unreachable, unknown model or revision, or consent missing."""


@dataclass(frozen=True)
class HubModel:
    """Metadata of a hub model. commit: of the revision; bytes: of its safetensors; licence: from its model card."""

    commit: str
    bytes: int
    licence: str
    gated: bool


def fetch_metadata(reference: ModelRef) -> HubModel:
    """Fetch a model's metadata. Raises HubError if its weights may not be downloaded."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # whichever HTTP library this version of huggingface_hub uses

    api, repository, revision = HfApi(), reference.repository, reference.revision or "main"
    page, folder = f"{constants.ENDPOINT}/{repository}", f"{reference.subfolder}/" if reference.subfolder else ""
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        weights = [name for name in sizes if name.startswith(folder) and name.endswith(".safetensors")]
        if not weights:
            raise HubError(f"{page} has no safetensors there, and other weights are not loaded")
        if info.gated:  # by a HEAD request for a file: api.auth_check has no timeout
            api.get_hf_file_metadata(url=f"{page}/resolve/{info.sha}/{weights[0]}", timeout=TIMEOUT_SECONDS)
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = "has no such model or revision" if status == 404 else f"answers {status}; try again later"
        if status in (401, 403):
            reason = "wants consent, or does not exist: open it in a browser, agree, then `hf auth login`"
        raise HubError(f"{page} {reason}") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise HubError(f"{page} cannot be reached: {error}") from error
    return HubModel(
        commit=info.sha or "",
        bytes=sum(sizes[name] for name in weights),
        licence=str((info.card_data.license if info.card_data else None) or "not stated"),
        gated=bool(info.gated),
    )
