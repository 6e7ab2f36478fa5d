"""Check a recipe's frozen models, here or on the hub, without a download: location, pin, licence and size."""

import os
from dataclasses import dataclass
from pathlib import Path

from flows.commands.console import format_bytes
from flows.distill import ALL_STAGES
from flows.known_models import KnownModel, known_model
from lightgen_core.encoders.model_ref import ModelNotFound, ModelRef, parse_model_ref
from tasks.config.recipe import Recipe
from tasks.context.digests import WEIGHTS, weights_digest

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


@dataclass(frozen=True)
class Finding:
    """Finding about one model. bytes: of its weights, 0 if unknown; download: bytes that are missing here."""

    state: str
    found: str
    bytes: float = 0.0
    download: float = 0.0


def models_of(recipe: Recipe) -> dict[str, list[str]]:
    """Return a recipe's frozen models with the stages that use them; raise ModelNotFound if a checkpoint is missing."""
    users: dict[str, list[str]] = {}
    for stage in ALL_STAGES:
        for name in stage.weights(recipe):
            users.setdefault(name, []).append(stage.name)
    return users


def check_model(name: str) -> Finding:
    """Look a model up on this machine, then, unless offline, on the hub."""
    try:
        reference = parse_model_ref(name)
        if reference.path is not None:
            size = _weights_size(reference.path)
            return Finding("ok", f"local, {format_bytes(size)}, sha256 {(weights_digest(name) or '')[:12]}", size)
    except ModelNotFound as error:
        return Finding("missing", str(error))
    facts = known_model(name)
    terms = _describe_terms(facts) if facts else ""
    reference = _repository(reference)
    folder = reference.here()
    if folder is not None and (size := _weights_size(folder)):
        pin = _advise_pin(name, reference, reference.commit())
        return Finding("note" if pin else "ok", f"in the hub's cache, {format_bytes(size)}{terms}{pin}", size)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        size = facts.gigabytes * 1e9 if facts else 0.0
        return Finding("missing", f"not here, and cannot be checked offline (HF_HUB_OFFLINE){terms}", size, size)
    try:
        hub = _fetch_metadata(reference)
    except HubError as error:
        return Finding("missing", f"not here; {error}{terms}")
    text = f"{format_bytes(hub.bytes)} to download{terms or _describe_terms(hub)}"
    return Finding("note", f"on the hub, {text}{_advise_pin(name, reference, hub.commit)}", hub.bytes, hub.bytes)


def _describe_terms(model: KnownModel | HubModel) -> str:
    return f"; licence {model.licence}{', gated' if model.gated else ''}"


def _advise_pin(name: str, reference: ModelRef, commit: str | None) -> str:
    return "" if reference.pinned else f"; not pinned: write {name.partition('@')[0]}@{commit}"


def _repository(reference: ModelRef) -> ModelRef:
    """Return the hub repository of a name; for open_clip's MODEL/TAG, its download source."""
    import open_clip

    model, _, tag = reference.text.partition("/")
    address = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "") if model in open_clip.list_models() else ""
    return ModelRef(reference.text, None, address.strip("/")) if address else reference


def _weights_size(path: Path) -> float:
    """Return the bytes of a model's weights; 0 if none, as after an interrupted download."""
    files = [path] if path.is_file() else [file for file in path.rglob(WEIGHTS) if file.is_file()]
    return float(sum(file.stat().st_size for file in files))


def _fetch_metadata(reference: ModelRef) -> HubModel:
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
