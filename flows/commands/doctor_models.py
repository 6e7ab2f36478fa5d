"""Check a recipe's frozen models: location, pin, licence and size."""

import os
from dataclasses import dataclass
from pathlib import Path

from flows.commands.console import format_bytes
from flows.commands.hub import HubError, fetch_metadata
from flows.commands.known_models import KnownModel, known
from flows.distill import STAGES
from lightgen_core.encoders.model_ref import ModelNotFound, ModelRef, parse_model_ref
from tasks.config.recipe import Recipe
from tasks.context.digests import WEIGHTS, weights_digest


@dataclass(frozen=True)
class Finding:
    """Finding about one model. bytes: of its weights, 0 if unknown; download: bytes that are missing here."""

    state: str
    found: str
    bytes: float = 0.0
    download: float = 0.0


def models_of(recipe: Recipe) -> dict[str, list[str]]:
    """Return every frozen model of a recipe, with the stages that use it.

    Raises:
        ModelNotFound: the checkpoint to start from does not exist.
    """
    users: dict[str, list[str]] = {}
    for stage in STAGES:
        for name in stage.weights(recipe):
            users.setdefault(name, []).append(stage.name)
    return users


def find(name: str) -> Finding:
    """Look a model up on this machine, then, unless offline, on the hub."""
    try:
        reference = parse_model_ref(name)
        if reference.path is not None:
            weights = _size(reference.path)
            return Finding("ok", f"local, {format_bytes(weights)}, sha256 {(weights_digest(name) or '')[:12]}", weights)
    except ModelNotFound as error:
        return Finding("missing", str(error))
    told, about = _terms(known(reference)), known(reference)
    reference = _repository(reference)
    here = reference.here()
    if here is not None and (weights := _size(here)):
        pin = "" if reference.pinned else f"; not pinned: write {name.partition('@')[0]}@{reference.commit()}"
        return Finding("note" if pin else "ok", f"in the hub's cache, {format_bytes(weights)}{told}{pin}", weights)
    if _offline():
        size = about.gigabytes * 1e9 if about else 0.0
        return Finding("missing", f"not here, and cannot be checked offline (HF_HUB_OFFLINE){told}", size, size)
    try:
        hub = fetch_metadata(reference)
    except HubError as error:
        return Finding("missing", f"not here; {error}{told}")
    told = told or f"; licence {hub.licence}{', gated' if hub.gated else ''}"
    pin = "" if reference.pinned else f"; not pinned: write {name.partition('@')[0]}@{hub.commit}"
    return Finding("note", f"on the hub, {format_bytes(hub.bytes)} to download{told}{pin}", hub.bytes, hub.bytes)


def _terms(about: KnownModel | None) -> str:
    return "" if about is None else f"; licence {about.licence}{', gated' if about.gated else ''}"


def _repository(reference: ModelRef) -> ModelRef:
    """Return the hub repository of a name; for open_clip's MODEL/TAG, its download source."""
    import open_clip

    model, _, tag = reference.text.partition("/")
    address = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "") if model in open_clip.list_models() else ""
    return ModelRef(reference.text, None, address.strip("/")) if address else reference


def _size(here: Path) -> float:
    """Return the bytes of a model's weights; 0 if none, as after an interrupted download."""
    files = [here] if here.is_file() else [path for path in here.rglob(WEIGHTS) if path.is_file()]
    return float(sum(path.stat().st_size for path in files))


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
