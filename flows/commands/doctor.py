"""`lightgen doctor`: check this machine, and a recipe's needs, without a download."""

import contextlib
import importlib.util
import os
import platform
import shutil
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.commands.compute_here import measure_cores
from flows.commands.console import format_bytes
from flows.commands.doctor_models import Finding, check_model, models_of
from flows.commands.estimate import Rates, estimate
from flows.errors import UnknownModelSize, UserError
from flows.sizes import check_sizes, projector_config, student_config, token_sizes
from lightgen_core.captioning.config import WriterConfig
from lightgen_core.config import HeadConfig, LoopConfig, ProjectorConfig
from lightgen_core.model.flops import few_step_head, student_parameters
from lightgen_core.model.memory import row_bytes, static_bytes
from lightgen_core.vlm.config import VlmConfig
from storage.open_store import open_store
from storage.plural import pluralize
from storage.store import StoreError
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.progress import duration_in_words

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

TRAINING_HOURS = 24
"""Hours of pre-training on a CPU without a note."""
SHARD_MINUTES = 10
"""Minutes of a teacher that a kill may lose without a note."""


def check_machine(recipe: Recipe | None, settings: Settings) -> list[dict[str, str]]:
    """Return one row per check: its name, state, label and finding.

    The state is "ok", "note", or "missing" (the machine is not ready without it); the label names the defect.

    Raises:
        ModelNotFound: the recipe starts from a checkpoint that does not exist.
    """
    python = "ok" if sys.version_info >= (3, 11) else "missing"
    rows = [
        _row("python", python, f"{platform.python_version()}; 3.11 or newer is needed", "too old"),
        *(_check_package(name) for name in PACKAGES),
        _check_store(settings),
        _check_device(settings),
        _row("memory", "ok", f"{_memory() / 2**30:.0f} GiB, {pluralize(os.cpu_count() or 1, 'core')}"),
    ]
    if recipe is None:
        return rows
    users = models_of(recipe)
    models = {name: check_model(name) for name in users}
    for name, model in models.items():
        rows.append(_row(name, model.state, f"{model.found} (for {', '.join(users[name])})"))
    rows.append(student := _check_student(recipe))
    if student["state"] != "missing":  # else nothing is known of what it will take
        rows += _check_disk(recipe, settings, sum(model.download for model in models.values()))
        rows += [*_check_training(recipe, settings), *_check_shards(recipe)]
        rows.append(_check_device_memory(recipe, settings, models))
    from flows.commands.doctor_data import check_data  # late: it loads pyarrow and scipy
    from flows.commands.doctor_heads import check_heads

    rows += [_row(*finding, defect="unusable") for finding in (*check_data(recipe), *check_heads(recipe))]
    return [*rows, *_check_endpoints(recipe)]


def _row(check: str, state: str, found: str, defect: str = "missing") -> dict[str, str]:
    """Return a row. defect: label of the state "missing", such as "too small"."""
    return {"check": check, "state": state, "word": defect if state == "missing" else state, "found": found}


def _check_package(name: str) -> dict[str, str]:
    try:
        return _row(name, "ok", version(name))
    except PackageNotFoundError:
        return _row(name, "missing", "not installed; `make install` installs it")


def _check_store(settings: Settings) -> dict[str, str]:
    try:
        store = open_store(settings.store)
    except StoreError as error:
        return _row("store", "missing", str(error), "unusable")
    folder = store.local_path(".")
    if folder is None:
        return _row("store", "ok", store.uri)
    folder = _existing(folder)
    if not os.access(folder, os.W_OK):
        return _row("store", "missing", f"{folder} is not writable", "read-only")
    return _row("store", "ok", f"{store.uri}, {shutil.disk_usage(folder).free / 2**30:.0f} GiB free")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.resolve().parents) if path.exists())


def _check_disk(recipe: Recipe, settings: Settings, download: float) -> list[dict[str, str]]:
    """Compare maximum stage output and downloads with the free disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        result = estimate(recipe, Rates())
    except UnknownModelSize as error:
        rows = [_row("disk", "note", str(error))]
    else:
        largest = sorted(result["stages"], key=lambda row: -row["bytes"])[:3]
        needed = result["total"]["bytes"] + result["total"]["largest_scratch_bytes"]
        parts = ", ".join(f"{row['stage']} {format_bytes(row['bytes'])}" for row in largest)
        text = f"at most {format_bytes(needed)} in the store: {parts}"
        try:
            folder = open_store(settings.store).local_path(".")
        except StoreError:
            folder = None  # the row of the store reports it
        if folder is None:
            rows = [_row("disk", "note", f"{text}; the store is not on this machine's disk, see there")]
        else:
            rows = [_compare_free("disk", needed, _existing(folder), text)]
    if download:
        text = f"{format_bytes(download)} of models"
        rows.append(_compare_free("downloads", download, _existing(Path(HF_HUB_CACHE)), text))
    return rows


def _check_student(recipe: Recipe) -> dict[str, str]:
    """Compare the student's widths and the images' sizes with the components."""
    try:
        check_sizes(recipe)
        config = student_config(recipe)
    except UserError as error:
        return _row("student", "missing", str(error), "contradiction")
    except UnknownModelSize as error:
        return _row("student", "note", str(error))
    parameters = student_parameters(config, recipe.pretrain.head) / 1e6
    widths = f"tokens of {config.token_width} values, text of {config.text_width}"
    return _row("student", "ok", f"{recipe.pretrain.model.preset}, {parameters:.1f} M parameters, {widths}")


def _check_training(recipe: Recipe, settings: Settings) -> list[dict[str, str]]:
    """Compare the time of pre-training on a CPU, by what the cores reach in a matrix product, with `TRAINING_HOURS`."""
    from lightgen_core.device import pick_device

    try:
        if pick_device(settings.device, settings.threads).type != "cpu":
            return []
        stages = estimate(recipe, Rates(tflops=measure_cores()))["stages"]
    except (UnknownModelSize, ValueError):  # the rows of student and device report it
        return []
    (row,) = (row for row in stages if row["stage"] == "pretrain")
    if row["device_hours"] <= TRAINING_HOURS:
        return []
    least = duration_in_words(3600 * row["device_hours"])
    text = f"{pluralize(row['items'], 'image')} take {least} on this CPU, at least (estimate)"
    return [_row("pretrain", "note", f"{text}: lower pretrain.steps or pretrain.batch_size, or use a GPU")]


def _check_shards(recipe: Recipe) -> list[dict[str, str]]:
    """Compare the time that a kill of synthesis can lose, where it is known, with `SHARD_MINUTES`."""
    try:
        (row,) = (row for row in estimate(recipe, Rates())["stages"] if row["stage"] == "synthesis")
    except UnknownModelSize:
        return []
    if not (minutes := row["shard_minutes"]):
        return []
    text = f"a shard of {pluralize(recipe.synthesis.shard_size, 'image')} takes {minutes:.0f} minutes (estimate)"
    long = minutes > SHARD_MINUTES
    hint = f"; a kill loses them: set synthesis.shard_size={int(recipe.synthesis.shard_size * SHARD_MINUTES / minutes)}"
    return [_row("shards", "note" if long else "ok", text + (hint if long else ""))]


def _compare_free(check: str, needed: float, folder: Path, text: str) -> dict[str, str]:
    free = shutil.disk_usage(folder).free
    state = "ok" if free >= needed else "missing"
    return _row(check, state, f"{text}; {format_bytes(free)} free at {folder}", "too small")


def _check_device(settings: Settings) -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return _row("device", "missing", "torch is not installed")
    import torch

    from lightgen_core.device import pick_device

    try:
        device = pick_device(settings.device, settings.threads)
    except ValueError as error:
        return _row("device", "missing", str(error), "unusable")
    if device.type == "cuda":
        free, total = (count / 2**30 for count in torch.cuda.mem_get_info(device))
        return _row("device", "ok", f"{torch.cuda.get_device_name(device)}, {free:.0f} of {total:.0f} GiB free")
    threads = pluralize(settings.threads, "thread")
    return _row("device", "note", f"cpu, {threads}: enough for the recipes demo and smoke")


def _check_device_memory(recipe: Recipe, settings: Settings, models: dict[str, Finding]) -> dict[str, str]:
    """Compare the largest model, or training on one row at a time, with device memory."""
    import torch

    from lightgen_core.device import pick_device

    sizes = {name: model.bytes for name, model in models.items()}
    with contextlib.suppress(UnknownModelSize):  # the row of the student reports it
        sizes["training, one row at a time"] = float(_training_bytes(recipe, settings))
    largest = max(sizes, key=lambda name: sizes[name])
    text = f"{format_bytes(sizes[largest])} for {largest}, the largest thing"
    try:
        device = pick_device(settings.device, settings.threads)
    except ValueError:
        return _row("device memory", "note", text)  # the row of the device reports it
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else _memory()
    enough = sizes[largest] <= memory
    hint = "" if enough else "; a pipeline can be offloaded (LIGHTGEN_OFFLOAD), other models want a larger device"
    return _row("device memory", "ok" if enough else "note", f"{text}; {format_bytes(memory)} on {device}{hint}")


def _training_bytes(recipe: Recipe, settings: Settings) -> int:
    """Return what training takes at least: weights, their gradients and averages, and one row's activations."""
    mar, head, sizes = student_config(recipe), recipe.pretrain.head, token_sizes(recipe)
    row = partial(
        row_bytes,
        mar,
        text_tokens=recipe.tokens.max_text_tokens,
        checkpointing=settings.train.activation_checkpointing,
    )
    projector, last = projector_config(recipe), recipe.phases[-1][0]
    trainings: list[tuple[int | None, LoopConfig, HeadConfig, ProjectorConfig | None]] = [
        *((size, config, head, projector) for size, config in recipe.phases),
        (last, recipe.dpo, head, None),
    ]
    if recipe.distil_head is not None:
        distilled = recipe.distil_head.config(head, recipe.sampler)
        trainings.append((last, distilled, few_step_head(distilled.head), None))
    return max(
        static_bytes(mar, learned, config, aligned) + row(learned, config, tokens=sizes[size].tokens, projector=aligned)
        for size, config, learned, aligned in trainings
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_endpoints(recipe: Recipe) -> list[dict[str, str]]:
    """Report whether each endpoint's environment variables are set, never their values."""
    meanings: dict[str, str] = {}
    for name, used in (
        ("llm", _asks_llm(recipe)),
        ("images", any(each.teacher == "endpoint" for each in recipe.synthesis.each)),
        ("vlm", _asks_vlm(recipe)),
    ):
        if used:
            default = Settings.model_fields[f"{name}_url"].default
            meanings[f"LIGHTGEN_{name.upper()}_URL"] = f"address of the server; unless set, {default}"
            meanings[f"LIGHTGEN_{name.upper()}_KEY"] = "its key, if it wants one"
    rows = []
    for variable, meaning in meanings.items():
        state, text = ("ok", "set") if os.environ.get(variable) else ("note", "not set")
        rows.append(_row(variable, state, f"{meaning}: {text}"))
    return rows


def _asks_llm(recipe: Recipe) -> bool:
    models: list[WriterConfig | None] = [each.llm for each in recipe.captions.origins]
    models.append(recipe.evaluation.rewrite)
    return any(model is not None and model.backend == "endpoint" for model in models)


def _asks_vlm(recipe: Recipe) -> bool:
    filters, pairs = recipe.dedup.filters, recipe.pairs
    scorers = [*pairs.all_scorers, *([pairs.held_out] if pairs.held_out else [])]
    asked: list[VlmConfig | None] = [filters.judge if filters else None, recipe.synthesis.recaption]
    asked += [scorer.judge or scorer.vqa for scorer in scorers]
    return any(model is not None and model.backend == "endpoint" for model in asked)
