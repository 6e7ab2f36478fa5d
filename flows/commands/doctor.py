"""`lightgen doctor`: check this machine, and a recipe's needs, without a download."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.commands.console import format_bytes
from flows.commands.doctor_models import Finding, find, models_of
from flows.commands.estimate import CHECKPOINT, Rates, estimate
from flows.errors import UnknownModelSize
from storage.base import StoreError
from storage.plural import counted
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings

PACKAGES = (
    "torch",
    "prefect",
    "fastapi",
    "sqlalchemy",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "faiss-cpu",
    "datasets",
    "pyarrow",
)


def examine(recipe: Recipe | None, settings: Settings) -> list[dict[str, str]]:
    """Return one row per check: its name, state, label and finding.

    The state is "ok", "note", or "missing" (the machine is not ready without it); the label names the defect.

    Raises:
        ModelNotFound: the recipe starts from a checkpoint that does not exist.
    """
    checks = [
        _row(
            "python",
            "ok" if sys.version_info >= (3, 11) else "missing",
            f"{platform.python_version()}; 3.11 or newer is needed",
            "too old",
        )
    ]
    checks += [_package(name) for name in PACKAGES]
    checks += [_store(settings), _device(settings)]
    checks.append(_row("memory", "ok", f"{_memory() / 2**30:.0f} GiB, {counted(os.cpu_count() or 1, 'core')}"))
    if recipe is not None:
        checks += _needs(recipe, settings)
    return checks


def _needs(recipe: Recipe, settings: Settings) -> list[dict[str, str]]:
    """Check the recipe's models, disk, device memory and keys."""
    models = {name: (find(name), users) for name, users in models_of(recipe).items()}
    checks = [
        _row(name, found.state, f"{found.found} (for {', '.join(users)})") for name, (found, users) in models.items()
    ]
    checks += _disk(recipe, settings, sum(found.download for found, _ in models.values()))
    checks.append(_device_memory(recipe, settings, {name: found for name, (found, _) in models.items()}))
    return checks + _keys(recipe)


def _row(check: str, state: str, found: str, lack: str = "missing") -> dict[str, str]:
    """Return a row. lack: label of the state "missing", such as "too small"."""
    return {"check": check, "state": state, "word": lack if state == "missing" else state, "found": found}


def _package(name: str) -> dict[str, str]:
    try:
        return _row(name, "ok", version(name))
    except PackageNotFoundError:
        return _row(name, "missing", "not installed; `make install` installs it")


def _store(settings: Settings) -> dict[str, str]:
    try:
        store = Store(settings.store)
    except StoreError as error:
        return _row("store", "missing", str(error), "unusable")
    there = _folder(store)
    if there is None:
        return _row("store", "ok", store.uri)
    if not os.access(there, os.W_OK):
        return _row("store", "missing", f"{there} is not writable", "read-only")
    return _row("store", "ok", f"{store.uri}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free")


def _folder(store: Store) -> Path | None:
    """Return the existing folder of a local store; None if it is remote."""
    folder = store.local_path(".")
    return None if folder is None else _existing(folder)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.resolve().parents) if path.exists())


def _disk(recipe: Recipe, settings: Settings, download: float) -> list[dict[str, str]]:
    """Compare maximum stage output and downloads with the free disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        result = estimate(recipe, Rates())
    except UnknownModelSize as error:
        checks = [_row("disk", "note", str(error))]
    else:
        largest = sorted(result["stages"], key=lambda row: -row["bytes"])[:3]
        needed = result["total"]["bytes"] + result["total"]["largest_scratch_bytes"]
        parts = ", ".join(f"{row['stage']} {format_bytes(row['bytes'])}" for row in largest)
        try:
            folder = _folder(Store(settings.store))
        except StoreError:
            folder = None  # said by the row of the store
        checks = [_room("disk", needed, folder, f"at most {format_bytes(needed)} in the store: {parts}")]
    if download:
        checks.append(
            _room("downloads", download, _existing(Path(HF_HUB_CACHE)), f"{format_bytes(download)} of models")
        )
    return checks


def _room(check: str, needed: float, folder: Path | None, said: str) -> dict[str, str]:
    if folder is None:
        return _row(check, "note", f"{said}; the store is not on this machine's disk, see there")
    free = shutil.disk_usage(folder).free
    return _row(
        check, "ok" if free >= needed else "missing", f"{said}; {format_bytes(free)} free at {folder}", "too small"
    )


def _device(settings: Settings) -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return _row("device", "missing", "torch is not installed")
    import torch

    from lightgen_core.device import pick_device

    try:
        device = pick_device(settings.device, settings.threads)
    except ValueError as error:
        return _row("device", "missing", str(error), "unusable")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return _row(
            "device", "ok", f"{torch.cuda.get_device_name(device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        )
    return _row("device", "note", f"cpu, {counted(settings.threads, 'thread')}: enough for the recipes demo and smoke")


def _device_memory(recipe: Recipe, settings: Settings, models: dict[str, Finding]) -> dict[str, str]:
    """Compare the largest model or training state, without activations, with device memory."""
    import torch

    from lightgen_core.device import pick_device
    from lightgen_core.model.flops import student_parameters

    training = student_parameters(recipe.pretrain.model, recipe.pretrain.head) * CHECKPOINT
    held = {"training state": float(training)} | {name: found.bytes for name, found in models.items()}
    largest = max(held, key=lambda name: held[name])
    said = f"{format_bytes(held[largest])} for {largest}, the largest thing as stored; activations come on top"
    try:
        device = pick_device(settings.device, settings.threads)
    except ValueError:
        return _row("device memory", "note", said)  # said by the row of the device
    there = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else _memory()
    enough = held[largest] <= there
    hint = "" if enough else "; a pipeline can be offloaded (LIGHTGEN_OFFLOAD), other models want a larger device"
    return _row("device memory", "ok" if enough else "note", f"{said}; {format_bytes(there)} on {device}{hint}")


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _keys(recipe: Recipe) -> list[dict[str, str]]:
    """Report whether each endpoint's environment variables are set, never their values."""
    asked = {
        "llm": recipe.captions.llm is not None and recipe.captions.llm.backend == "endpoint",
        "images": recipe.synthesis.teacher == "endpoint",
    }
    rows = []
    for name in (name for name, wanted in asked.items() if wanted):
        default = Settings.model_fields[f"{name}_url"].default
        rows.append(_variable(f"LIGHTGEN_{name.upper()}_URL", f"address of the server; unless set, {default}"))
        rows.append(_variable(f"LIGHTGEN_{name.upper()}_KEY", "its key, if it wants one"))
    return rows


def _variable(name: str, what: str) -> dict[str, str]:
    there = bool(os.environ.get(name))
    return _row(name, "ok" if there else "note", f"{what}: {'set' if there else 'not set'}")
