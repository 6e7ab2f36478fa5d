"""Splits of Hugging Face data sets, by the rules of `datasets`: the README's configurations, else the files' names."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from lightgen_core.images.files import Files
from lightgen_core.images.sample import METADATA, ImageSetError
from lightgen_core.rejected import Rejected

TRAIN = "train"
"""Split that is read where a recipe names none."""
_README = "README.md"
_STATE, _DICT = "state.json", "dataset_dict.json"
_CARD_BYTES = 1 << 24
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def _has(files: Files, name: str) -> bool:
    try:
        return files.exists(name)
    except Rejected:  # a link out of the set
        return False


def is_saved(files: Files) -> bool:
    """Return whether `save_to_disk` wrote the files."""
    return _has(files, _STATE) or _has(files, _DICT)


def is_hub_layout(files: Files) -> bool:
    """Return whether files are laid out for the hub: a README with configurations, or data/train-00000-of-00001."""
    card = _card(files)
    shards = any(_SHARD.search(name) and name.startswith("data/") for name in files.find(".parquet", ".arrow", ".tar"))
    return "configs" in card or "dataset_info" in card or shards


def saved_names(files: Files, split: str | None) -> list[str]:
    """Return the Arrow files of a split that `save_to_disk` wrote. Raises ImageSetError."""
    folder = ""
    if _has(files, _DICT):
        splits = _json(files, _DICT)["splits"]
        folder = f"{_choose(splits, split, files.root)}/"
    state = _json(files, f"{folder}{_STATE}")
    return [folder + entry["filename"] for entry in state["_data_files"]]


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        return json.loads(files.read(name, _CARD_BYTES) or b"")
    except (Rejected, ValueError) as error:
        raise ImageSetError(f"{files.root}: {name}, which save_to_disk writes, cannot be read: {error}") from error


def split_names(files: Files, split: str | None, subset: str | None) -> frozenset[str]:
    """Return the names of a split's files, and of the metadata beside and above them. Raises ImageSetError."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern, sanitize_patterns
    from fsspec.core import url_to_fs

    config = _config(files, subset)
    if "://" in files.root:
        url_to_fs(files.root)[0].invalidate_cache()  # `datasets` shares this instance, and it keeps its listings
    root = base = files.root if "://" in files.root else os.path.abspath(files.root)  # noqa: PTH100 links stay
    try:
        if "data_files" in config:
            patterns = sanitize_patterns(config["data_files"])
        else:
            base = f"{root}/{config['data_dir']}" if "data_dir" in config else root
            patterns = get_data_patterns(base)
    except (EmptyDatasetError, ValueError) as error:
        raise ImageSetError(f"{files.root}: {error}") from error
    by_split = {str(name): values for name, values in patterns.items()}
    start = len(_plain(root)) + 1
    found: set[str] = set()
    for pattern in by_split[_choose(list(by_split), split, files.root)]:
        with suppress(FileNotFoundError):  # of several spellings of a split most match nothing
            found.update(_plain(path)[start:] for path in resolve_pattern(pattern, base))
    if not found:
        raise ImageSetError(f"{files.root}: no file matches the split's patterns, {', '.join(map(str, patterns))}")
    return frozenset(found | _metadata_above(files, found))


def _metadata_above(files: Files, names: set[str]) -> set[str]:
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return {name for folder in folders for each in METADATA if _has(files, name := str(PurePosixPath(folder, each)))}


def _plain(address: str) -> str:
    """Return an address without protocol and revision, which `datasets` may write in another way."""
    path = address.partition("://")[2] if "://" in address else address
    return re.sub(r"^(datasets/[^/]+/[^/@]+)@[^/]+", r"\1", path).rstrip("/")


def _choose(splits: Sequence[str], split: str | None, root: str) -> str:
    wanted = split or TRAIN
    if wanted in splits:
        return wanted
    if split is None and len(splits) == 1:
        return splits[0]
    raise ImageSetError(f"{root} has no split {wanted!r}; its splits are {', '.join(splits)}: set split to one of them")


def _config(files: Files, subset: str | None) -> Mapping[str, Any]:
    """Return the configuration of a subset, the default one or the only one if none is named; {} if there are none."""
    configs = {str(config.get("config_name", "default")): config for config in _card(files).get("configs") or []}
    if subset is None and len(configs) > 1:
        default = [name for name, config in configs.items() if config.get("default") or name == "default"]
        subset = default[0] if default else None
    if subset is None and len(configs) <= 1:
        return next(iter(configs.values()), {})
    if subset not in configs:
        found = f"no subset {subset!r}" if subset else "several subsets"
        raise ImageSetError(
            f"{files.root} has {found}; set subset to one of {', '.join(configs) or 'none: it has none'}"
        )
    return configs[subset]


def _card(files: Files) -> dict[str, Any]:
    """Return the YAML at the head of the README; {} if there is none."""
    import yaml

    if not _has(files, _README):
        return {}
    text = (files.read(_README, _CARD_BYTES) or b"").decode(errors="replace")
    head = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        card = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError as error:
        raise ImageSetError(f"{files.root}/{_README}: its YAML cannot be read: {error}") from error
    return card if isinstance(card, dict) else {}
