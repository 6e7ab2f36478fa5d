"""Check a recipe's frozen models: location, pin, licence and size."""

import os
from dataclasses import dataclass
from pathlib import Path

from flows.commands.console import format_bytes
from flows.commands.hub import HubError, HubModel, fetch_metadata
from flows.commands.known_models import KnownModel, known_model
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
    """Return a recipe's frozen models with the stages that use them; raise ModelNotFound if a checkpoint is missing."""
    users: dict[str, list[str]] = {}
    for stage in STAGES:
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
        hub = fetch_metadata(reference)
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
