"""`lightgen doctor`: is this machine ready, and what is missing."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lightgen_core.weights_digest import digest
from lightgen_core.zoo.paths import ModelNotFound
from storage.store import Store, StoreError
from tasks.recipe import Recipe
from tasks.settings import Settings

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
    """Return one row for each check: what was looked at, "ok", "note" or "missing", and what was found."""
    checks = [
        _row(
            "python",
            "ok" if sys.version_info >= (3, 11) else "missing",
            f"{platform.python_version()}; 3.11 or newer is needed",
        )
    ]
    checks += [_package(name) for name in PACKAGES]
    checks += [_store(settings), _device(settings)]
    checks.append(
        _row(
            "memory",
            "ok",
            f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, {os.cpu_count()} cores",
        )
    )
    if recipe is not None:
        checks += [
            _weights(reference)
            for reference in (recipe.embeddings.model, recipe.tokens.codec, recipe.tokens.text_encoder)
        ]
    return checks


def _row(check: str, state: str, found: str) -> dict[str, str]:
    return {"check": check, "state": state, "found": found}


def _package(name: str) -> dict[str, str]:
    try:
        return _row(name, "ok", version(name))
    except PackageNotFoundError:
        return _row(name, "missing", "not installed; `make install` installs it")


def _store(settings: Settings) -> dict[str, str]:
    try:
        store = Store(settings.store)
    except StoreError as error:
        return _row("store", "missing", str(error))
    folder = store.local_path(".")
    if folder is None:
        return _row("store", "ok", store.uri)
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = f"{store.uri}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free"
    return _row(
        "store",
        "ok" if os.access(there, os.W_OK) else "missing",
        free if os.access(there, os.W_OK) else f"{there} is not writable",
    )


def _device(settings: Settings) -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return _row("device", "missing", "torch is not installed")
    import torch

    from lightgen_core.device import pick_device

    try:
        device = pick_device(settings.device, settings.threads)
    except ValueError as error:
        return _row("device", "missing", str(error))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return _row(
            "device", "ok", f"{torch.cuda.get_device_name(device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        )
    return _row("device", "note", f"cpu, {settings.threads} threads: enough for the recipes demo and smoke")


def _weights(reference: str) -> dict[str, str]:
    try:
        found = digest(reference)
    except ModelNotFound as error:
        return _row(reference, "missing", str(error))
    where = reference if not Path(reference).is_dir() else "local folder"
    return _row(reference, "ok", f"{where} {found[:12]}" if found else "on the hub; downloaded when the stage runs")
