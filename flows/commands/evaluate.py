"""`lightgen eval`: images of a benchmark's prompts from any source, their scores, and metrics over all of them."""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.commands.evaluate_benchmarks import BENCHMARKS, Benchmark, JudgeImages, Verdict, prompts_digest
from flows.commands.evaluate_contamination import contamination
from flows.commands.evaluate_images import ImageSource
from flows.commands.evaluate_kept import KeptImages
from flows.commands.evaluate_metrics import MetricSuite
from flows.commands.evaluate_options import EvaluationOptions
from flows.commands.evaluate_peers import resolve_peer
from flows.commands.evaluate_request import Generate, Request
from flows.commands.evaluate_sources import Source, open_source
from flows.commands.evaluate_tables import describe_evaluation_as_markdown
from flows.errors import UserError
from flows.folders import require_writable
from flows.terminal import stage_bar
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.progress import duration_in_words

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lightgen")

_WITHHELD = (Reason.UNSAFE_CONTENT, Reason.REFUSED)
"""Reasons for which an image is missing and its prompt counts as not shown, rather than the evaluation as failed."""


@dataclass
class _Cost:
    """Seconds of an evaluation's parts, and images that were made or were there already."""

    made: int = 0
    kept: int = 0
    generating: float = 0.0
    judging: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it for `--json`; images_per_second is None where nothing was made."""
        rate = self.made / self.generating if self.made and self.generating else None
        return {
            "made": self.made,
            "kept": self.kept,
            "seconds_generating": round(self.generating, 3),
            "seconds_judging": round(self.judging, 3),
            "images_per_second": rate and round(rate, 3),
        }


@dataclass
class _Evaluation:
    """An evaluation under way."""

    source: Source
    benchmark: Benchmark
    recipe: Recipe
    requests: list[Request]
    kept: KeptImages
    cost: _Cost = field(default_factory=_Cost)


def evaluate(model: str, **options: Any) -> dict[str, Any]:
    """Score a model; return what `lightgen eval --json` prints.

    Args:
        model: a student, a name with a prefix of `SOURCES`, or a peer of the published tables.
        options: fields of `EvaluationOptions`.

    Raises:
        UserError: no such model, a benchmark without a judge, a prompt that cannot be generated, or an output folder
            that cannot be written or holds another evaluation.
        ModelNotFound: the path of a pipeline does not exist.
        PromptFileError: a file of prompts is not of its form.
    """
    started = time.monotonic()
    model, given = resolve_peer(model, EvaluationOptions(**options))
    recipe = given.configured()
    source = open_source(model, given, recipe)
    benchmark = BENCHMARKS[given.benchmark_of(recipe)](recipe, given, source)
    metrics = MetricSuite(given, recipe, source)
    if benchmark.judge is None and given.output is None and not metrics.names:
        raise UserError(
            f"nobody judges images of the recipe's {benchmark.name}; give --benchmark geneval or scene, "
            "--metrics, or -o FOLDER to keep the images"
        )
    with _folder(given.output) as folder:
        with stage_bar("judge"):
            from lightgen_core.device import pick_device  # torch: after all that can be wrong with the request

            settings = Settings()
            device = pick_device(settings.device, settings.threads)
            evaluation = _open(folder, source, benchmark, recipe, given)
            metrics.load(device)
            judge = benchmark.load(device)
        _make_images(evaluation, judge, device)
        measured = metrics.measure(evaluation.kept, evaluation.requests)
        result = _result(model, evaluation, measured, started)
        if given.output is not None:
            _write_result(folder, result)
    return result


def _open(
    folder: Path, source: Source, benchmark: Benchmark, recipe: Recipe, options: EvaluationOptions
) -> _Evaluation:
    """Return the evaluation with its requests, and what its folder keeps of them."""
    images = recipe.evaluation.images
    if recipe.evaluation.rewrite and not isinstance(source, ImageSource):
        raise UserError(
            f"{recipe.name} rewrites its prompts (evaluation.rewrite), which `lightgen eval` does not do; expected a "
            f"recipe without it. Its own scores come from `lightgen run {recipe.name} --only evaluation`"
        )
    if isinstance(source, ImageSource):
        there = source.images_each(prompt.caption for prompt in benchmark.prompts)
        images = options.images or (min(there, images) if options.recipe else there)
    requests = [
        Request(index, number, prompt.caption, derive_seed(recipe.seed, "evaluation", index, number))
        for index, prompt in enumerate(benchmark.prompts)
        for number in range(images)
    ]
    prompts = {"benchmark": benchmark.name, "seed": recipe.seed, "prompts": prompts_digest(benchmark.prompts)}
    kept = KeptImages(folder, {**prompts, **source.identity()}, benchmark.identity())
    return _Evaluation(source, benchmark, recipe, requests, kept)


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """Yield the folder of the images: the one given, or one for as long as it takes."""
    if output is not None:
        require_writable(output)
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="lightgen-eval-") as folder:
        yield Path(folder)


def _make_images(evaluation: _Evaluation, judge: JudgeImages, device: "torch.device") -> None:
    """Generate and judge what the folder lacks, in batches, logging the time left."""
    kept, requests = evaluation.kept, evaluation.requests
    missing = [request for request in requests if not kept.has(request.seed, request.caption)]
    there = [request for request in requests if kept.has(request.seed, request.caption)]
    evaluation.cost.kept = len(there)
    _judge_kept(evaluation, judge, there)
    if missing:
        generate, size, started = _load(evaluation.source, device), evaluation.source.batch_size, time.monotonic()
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            _make_batch(evaluation, generate, judge, batch)
            done = start + len(batch)
            left = (time.monotonic() - started) / done * (len(missing) - done)
            log.info("%d of %d images, %s left", len(there) + done, len(requests), duration_in_words(left))
    kept.finish([request.seed for request in requests])


def _load(source: Source, device: "torch.device") -> Generate:
    """Load a source. Raises UserError."""
    try:
        with stage_bar("model"):
            return source.load(device)
    except (OSError, ValueError) as error:  # what loaders raise for a name that holds no such model
        raise UserError(str(error)) from error


def _make_batch(evaluation: _Evaluation, generate: Generate, judge: JudgeImages, requests: Sequence[Request]) -> None:
    """Generate, judge and keep the images of some requests.

    Raises:
        UserError: an image is missing for another reason than its content, which a score must not hide. What was made
            of its batch is kept.
    """
    started = time.monotonic()
    images = list(_generated(generate, requests))
    evaluation.cost.generating += time.monotonic() - started
    evaluation.cost.made += len(requests)
    made = [(request, image) for request, image in zip(requests, images, strict=True) if not _failed(image)]
    verdicts = _judged(evaluation, judge, made)
    for (request, image), verdict in zip(made, verdicts, strict=True):
        prompt = evaluation.benchmark.prompts[request.prompt]
        about = {"tag": prompt.category, "prompt": prompt.caption}
        evaluation.kept.write_prompt(request.prompt, about | evaluation.benchmark.metadata(prompt))
        row = {**about, **verdict, "seed": request.seed}
        if isinstance(image, Rejected):
            evaluation.kept.add_row({"filename": None, **row, "reason": image.reason})
        else:
            evaluation.kept.add(request.prompt, request.number, image, row)
    for request, image in zip(requests, images, strict=True):
        if isinstance(image, Rejected) and _failed(image):
            hint = "\nTry LIGHTGEN_OFFLOAD=model." if image.reason is Reason.OUT_OF_MEMORY else ""
            raise UserError(f"no image of {request.caption!r}: {image}{hint}")


def _generated(generate: Generate, requests: Sequence[Request]) -> Iterator[np.ndarray | Rejected]:
    """Yield the images of requests. Raises UserError if an endpoint cannot be used."""
    from lightgen_core.endpoint import EndpointError

    try:
        yield from generate(requests)
    except EndpointError as error:
        raise UserError(f"{error}\nWhat was made is kept where -o was given; the same command continues.") from error


def _failed(image: np.ndarray | Rejected) -> bool:
    return isinstance(image, Rejected) and image.reason not in _WITHHELD


def _judged(
    evaluation: _Evaluation, judge: JudgeImages, answers: Sequence[tuple[Request, np.ndarray | Rejected]]
) -> list[Verdict]:
    """Judge images; one that the source withheld is wrong, as its black substitute would be."""
    started, prompts = time.monotonic(), evaluation.benchmark.prompts
    shown = [(image, prompts[request.prompt]) for request, image in answers if not isinstance(image, Rejected)]
    verdicts = iter(judge([image for image, _ in shown], [prompt for _, prompt in shown]) if shown else ())
    results = []
    for request, image in answers:
        if isinstance(image, Rejected):
            log.warning("%r counts as wrong: %s", request.caption, image)
        results.append(evaluation.benchmark.withheld if isinstance(image, Rejected) else next(verdicts))
    evaluation.cost.judging += time.monotonic() - started
    return results


def _judge_kept(evaluation: _Evaluation, judge: JudgeImages, requests: Sequence[Request]) -> None:
    """Judge images that are kept without a verdict of this judge."""
    kept, size = evaluation.kept, evaluation.source.batch_size
    if evaluation.benchmark.judge is None:
        return
    waiting = [request for request in requests if kept.verdict(request.seed) is None]
    for start in range(0, len(waiting), size):
        batch = waiting[start : start + size]
        images = [kept.image(request.seed) for request in batch]
        withheld = Rejected(Reason.UNSAFE_CONTENT)
        answers = [
            (request, withheld if image is None else image) for request, image in zip(batch, images, strict=True)
        ]
        for request, verdict in zip(batch, _judged(evaluation, judge, answers), strict=True):
            kept.judge(request.seed, verdict)


def _result(model: str, evaluation: _Evaluation, measured: dict[str, Any], started: float) -> dict[str, Any]:
    """Return the scores with what they are of, and what they cost."""
    recipe, benchmark = evaluation.recipe, evaluation.benchmark
    section, prompts = recipe.evaluation, benchmark.prompts
    rows: list[list[Verdict]] = [[] for _ in prompts]
    for request in evaluation.requests:
        rows[request.prompt].append(evaluation.kept.verdict(request.seed) or {})
    return {
        "model": model,
        "benchmark": benchmark.name,
        "judge": benchmark.judge,
        "prompts": section.prompts or f"{len(prompts)} of the benchmark",
        "seed": recipe.seed,
        "images": evaluation.cost.as_dict(),
        "contamination": contamination([prompt.caption for prompt in prompts], evaluation.source.checkpoint),
        "scores": benchmark.scores(rows, derive_seed(recipe.seed, "bootstrap"), section.resamples),
        **measured,
        "seconds": round(time.monotonic() - started, 3),
    }


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    (folder / "scores.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "scores.md").write_text(describe_evaluation_as_markdown(result))
