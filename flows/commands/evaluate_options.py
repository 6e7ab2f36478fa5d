"""Options of `lightgen eval`, and the recipe that they override."""

from dataclasses import dataclass
from pathlib import Path

from flows.commands.options import drop_unset
from flows.errors import UserError
from flows.load import load_recipe
from lightgen_core.evaluation.feature_models import EFFICIENTNET
from tasks.config.recipe import Recipe
from tasks.config.sections import Evaluation

ASKING = {
    "dpg": "dpg_bench.csv of github.com/TencentQQGYLab/ELLA",
    "geneval2": "geneval2_data.jsonl of github.com/facebookresearch/GenEval2",
    "geneval2-tifa": "geneval2_data.jsonl of github.com/facebookresearch/GenEval2",
    "t2i-compbench": "CATEGORY_val.txt of github.com/Karine-Huang/T2I-CompBench, in examples/dataset",
    "t2i-compbench-mllm": "CATEGORY_val.txt of github.com/Karine-Huang/T2I-CompBench, in examples/dataset",
}
"""Benchmarks with prompts in their authors' files, and where these come from."""
_COMPBENCH = ("t2i-compbench", "t2i-compbench-mllm")
"""Benchmarks whose judges depend on the file: they say themselves which are missing."""
_ALL = 10**9  # prompts of a category, more than there are


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `lightgen eval`; those that are not given come from the recipe, or its defaults.

    Attributes:
        recipe: name or path; the student is then scored as its run did.
        benchmark: name of a benchmark; metadata implies geneval, prompts implies prompts.
        images: number for each prompt; of images that exist as many as every prompt has, by default.
        per_category: most prompts of a category.
        steps: iterations of a student, denoising steps of a pipeline; default: the recipe's, or its own.
        cfg: classifier-free guidance, likewise.
        size: side of a pipeline's or an endpoint's images, px; default: as it does.
        metadata: GenEval's own `evaluation_metadata.jsonl`.
        prompts: captions to generate, one a line or as JSON lines.
        questions: the file of a benchmark of `ASKING`: `dpg_bench.csv`, `geneval2_data.jsonl`, `color_val.txt`.
        judge: the model that is asked: `transformers:MODEL`, its name at LIGHTGEN_VLM_URL, or `blip:MODEL`.
        detector: OWLv2 or OWL-ViT that finds the objects of t2i-compbench.
        parser: pipeline of spaCy that splits the prompts of t2i-compbench.
        metrics: names of `METRICS` with commas between, measured over all images.
        references: images that sets are compared with: a folder, Parquet or another set, or STAGE/KEY of a store.
        training: images that a student may have memorised; by default those that its lineage knows.
        features: space of the metrics that have none of their own (`evaluation/feature_models.py`).
        clip: CLIP of the metrics in its space, the recipe's `embeddings.model` by default; of t2i-compbench, OpenAI's.
        limit: most references and training images that are read, chosen by the seed.
        memorised_below: 1 - cosine below which an image counts as memorised.
        output: folder in which images and verdicts are kept, and from which the next run continues.
        store_uri: where recipes, keys and artifacts are looked for.
    """

    recipe: str | None = None
    benchmark: str | None = None
    images: int | None = None
    per_category: int | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    metadata: Path | None = None
    prompts: Path | None = None
    questions: Path | None = None
    judge: str | None = None
    detector: str | None = None
    parser: str = "en_core_web_sm"
    metrics: str | None = None
    references: str | None = None
    training: str | None = None
    features: str = EFFICIENTNET
    clip: str | None = None
    limit: int = 5000
    memorised_below: float = 0.05
    output: Path | None = None
    store_uri: str | None = None

    def configured(self) -> Recipe:
        """Return the recipe with its evaluation overridden by the options. Raises UserError."""
        base = load_recipe(self.recipe) if self.recipe else Recipe(name="eval")
        name = self.benchmark or self._implied() or base.evaluation.benchmark
        self._check(name)
        name = "prompts" if name in ASKING else name
        file = self.metadata or self.prompts
        section = base.evaluation.model_dump() | drop_unset(
            benchmark=name, images=self.images, per_category=self.per_category, prompts=str(file) if file else None
        )
        if name == "prompts" and not (self.recipe or self.per_category):
            section["per_category"] = _ALL  # a file's prompts, or those of images, are all meant
        if name == "scene":
            section["prompts"] = None
        elif name != base.evaluation.benchmark and file is None:
            section["prompts"] = None  # the recipe's file is of another form
        return base.model_copy(update={"evaluation": Evaluation.model_validate(section)} | drop_unset(seed=self.seed))

    def benchmark_of(self, recipe: Recipe) -> str:
        """Return the name of the benchmark; a recipe names none of those that ask questions."""
        return self.benchmark if self.benchmark in ASKING else recipe.evaluation.benchmark

    def _implied(self) -> str | None:
        return "geneval" if self.metadata else "prompts" if self.prompts else None

    def _check(self, benchmark: str) -> None:
        if self.metadata and benchmark != "geneval":
            raise UserError(f"--metadata goes with --benchmark geneval, not with {benchmark}")
        if benchmark in _COMPBENCH:
            if self.questions is None:
                raise UserError(f"{benchmark} needs --questions FILE: {ASKING[benchmark]}")
        elif benchmark in ASKING and not (self.questions and self.judge):
            missing = "--questions FILE" if self.questions is None else "--judge MODEL"
            raise UserError(
                f"{benchmark} needs {missing}: its authors' file is {ASKING[benchmark]}, and the model "
                "(transformers:MODEL, or the name of one behind LIGHTGEN_VLM_URL) answers it"
            )
        if (self.questions or self.judge) and benchmark not in ASKING:
            raise UserError(f"--questions and --judge go with --benchmark {', '.join(ASKING)}, not with {benchmark}")
        if self.detector and benchmark != "t2i-compbench":
            raise UserError(f"--detector goes with --benchmark t2i-compbench, not with {benchmark}")
        if self.prompts and benchmark != "prompts":
            raise UserError(f"--prompts goes with --benchmark prompts, not with {benchmark}")
