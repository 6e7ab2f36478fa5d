"""The benchmarks by name, and the prompts of each. Free of torch."""

from pathlib import Path
from typing import Literal

from lightgen_core.evaluation.geneval_prompts import geneval_prompts, read_metadata
from lightgen_core.evaluation.prompt import Prompt, limit_per_category, read_prompts
from lightgen_core.evaluation.scene import scene_prompts
from lightgen_core.scene.config import World

Benchmark = Literal["scene", "geneval", "prompts"]


def benchmark_prompts(
    benchmark: Benchmark, per_category: int | None, *, world: World, seed: int, file: Path | None = None
) -> list[Prompt]:
    """Return at most `per_category` (None: all) prompts of each category of a benchmark.

    Args:
        benchmark: "scene": held-out captions of a world; "geneval": 553 of GenEval's form, or its authors' own from
            `file`; "prompts": those of `file`, or those of GenEval's form.
        file: "geneval": `evaluation_metadata.jsonl`; "prompts": a `.txt` or `.jsonl` of captions.

    Raises:
        PromptFileError: a file that is not there, or not of that form.
    """
    if benchmark == "scene":
        return scene_prompts(world, per_category, seed)
    if file is None:
        return limit_per_category(list(geneval_prompts()), per_category)
    return limit_per_category(read_metadata(file) if benchmark == "geneval" else read_prompts(file), per_category)
