"""A prompt of a benchmark, and prompts from a file. Free of torch."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

UNSORTED = "captions"
"""Category of the prompts of a file that names none."""


class PromptFileError(ValueError):
    """Prompt file that is missing or cannot be read."""


@dataclass(frozen=True)
class Prompt:
    """Caption to generate an image from, its category, and its meaning in the judge's form."""

    caption: str
    category: str
    meaning: str


def limit_per_category(prompts: list[Prompt], per_category: int | None) -> list[Prompt]:
    """Return the first prompts of each category, in their order; None keeps all."""
    seen: defaultdict[str, Iterator[int]] = defaultdict(count)
    return [prompt for prompt in prompts if per_category is None or next(seen[prompt.category]) < per_category]


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a file: `.txt`, one a line, or `.jsonl` with `caption` or `prompt`, and maybe `category`.

    Empty lines are skipped. The images' content is not specified, so no judge applies.

    Raises:
        PromptFileError: no such file, another ending, a line that is not such an object, or no prompt at all.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise PromptFileError(f"found prompts in {path.name}; expected a .txt (one a line) or a .jsonl file")
    prompts = []
    for number, line in numbered_lines(path):
        row = _object(path, number, line) if path.suffix == ".jsonl" else {"caption": line.strip()}
        caption, category = row.get("caption", row.get("prompt")), row.get("category", UNSORTED)
        if not isinstance(caption, str) or not caption.strip() or not isinstance(category, str):
            raise PromptFileError(
                f'{path}, line {number}: found {line.strip()[:80]!r}; expected {{"caption": "a red bus"}}, '
                'with "category" as a string where prompts fall into groups'
            )
        prompts.append(Prompt(caption, category, caption))
    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")
    return prompts


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1.

    Raises:
        PromptFileError: no such file, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"prompts cannot be read from {path}: {error}") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptFileError(f"{path}, line {number} is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise PromptFileError(f"{path}, line {number}: found {type(row).__name__}, expected a JSON object")
    return row


def mismatched_prompts(prompts: list[Prompt], seed: int) -> np.ndarray:
    """Return for each prompt the index of one with another meaning: the next such in a random ring of them all."""
    ring = np.random.default_rng(seed).permutation(len(prompts))
    other = np.empty(len(prompts), dtype=np.int64)
    for position, index in enumerate(ring):
        offset = 1
        while prompts[ring[(position + offset) % len(ring)]].meaning == prompts[index].meaning:
            offset += 1
            if offset > len(ring):
                raise ValueError("all prompts mean the same: there is nothing to shuffle; evaluate more categories")
        other[index] = ring[(position + offset) % len(ring)]
    return other
