"""The speed ladder of sampling: images per second and score after each rung, all rungs in turns in one run.

    python -m benchmarks.sampling CHECKPOINT --released PATH        a trained student, with scores
    python -m benchmarks.sampling --size large --device cuda --released PATH     random weights, without
    python -m benchmarks.sampling CHECKPOINT --sampler head_steps=12 head_sampler=ddim \\
        --change null_text_every=2 head_sampler=few_step,head_steps=2
    python -m benchmarks.sampling --size large --grid 32 --pictures 1 --roofline H100    the least time, run nowhere

The plain setting is the paper's: 64 iterations (no more than tokens), 100 head steps, constant guidance. Each row has
the rungs above it too; a few-step student, where the checkpoint has one, is sampled as it was distilled, and in fewer
iterations and evaluations. With `--change` there is a row for each change of fields instead, all else being equal. The
last one computes the time below which a GPU cannot be (`sampling_roofline.py`). Text encoder and image decoder are not
timed. Scores are the scene world's detector on held-out captions, with a 95 %
interval, and the paired difference to the plain setting.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import interleaved, sampling_roofline
from benchmarks.ladder import Rungs, sample_by_rungs
from benchmarks.released import released_model, sampler
from benchmarks.roofline import CEILINGS
from benchmarks.sizes import GRID, NUM_TEXT_TOKENS, SIZES
from lightgen_core.config import HeadConfig, SamplerConfig
from lightgen_core.device import pick_device
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.evaluation.scene import judge_scenes, scene_prompts
from lightgen_core.evaluation.scores import score_table
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Student, new_student
from lightgen_core.model.patchify import unpatchify
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import plan_iterations, sample
from lightgen_core.scene.config import World
from lightgen_core.scene.vocabulary import CATEGORIES

LAST_RUNGS = {"ddpm": ("ddpm", 25, 6), "v": ("ddim", 12, 4), "x": ("ddim", 12, 4), "flow": ("euler", 12, 4)}
"""For each objective the sampler of the lower rungs, and its head steps at first and at last."""

FIRST_TOKENS_ALONE = {"head_steps_last": 1, "head_steps_last_at": 0.2}
"""Of a few-step student: several evaluations for the first tenth of the tokens, at least one, and one for others."""


@dataclass(frozen=True)
class Workload:
    """Texts to sample; of held-out captions their prompts, and the judge of the tokens."""

    student: Student
    text: Tensor
    text_mask: Tensor | None
    grid: tuple[int, int]
    prompts: Sequence[Prompt] = ()
    judge: Callable[[Tensor], np.ndarray] | None = None
    few_step: FewStepStudent | None = None
    few_step_sampler: SamplerConfig | None = None

    @property
    def seeds(self) -> range:
        return range(len(self.text))


@dataclass(frozen=True)
class Rung:
    """A way to sample, and how often it evaluates the head for a token."""

    run: Callable[[], Tensor]
    evaluations: float


def main() -> None:
    arguments = _arguments()
    if arguments.roofline:
        _report_roofline(arguments)
        return
    device = pick_device(arguments.device, arguments.threads)
    workload = _trained(arguments, device) if arguments.checkpoint else _random(arguments, device)
    plain = _with(_plain(workload.student.head.config, device.type == "cuda"), arguments.sampler)
    ladder = _changes(workload, plain, arguments.change) or _ladder(workload, plain, device, arguments.compile)
    outputs: dict[str, Tensor] = {}
    rungs = {name: _keep(outputs, name, rung.run) for name, rung in ladder.items()}
    others: dict[str, Callable[[], object]] = {}
    if arguments.released:
        mar, head = workload.student.mar.config, workload.student.head.config
        model = released_model(arguments.released, mar, head, workload.grid, workload.text.shape[1], device)
        others["released code, random weights"] = sampler(
            model, workload.text, workload.grid, plain.iterations, plain.guidance_scale
        )
    seconds = interleaved.seconds(others | rungs, arguments.rounds, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} threads"
    images = f"{len(workload.text)} images of {workload.grid[0]}x{workload.grid[1]} tokens"
    print(f"{images}, {name}, medians of {arguments.rounds}\n")
    print(
        interleaved.table(
            ("setting", "evaluations", "images/s", "to plain", "to released", "score", "paired difference"),
            _rows(workload, seconds, outputs, {name: rung.evaluations for name, rung in ladder.items()}),
        )
    )


def _report_roofline(arguments: argparse.Namespace) -> None:
    """Print the computed least times of settings in bf16."""
    mar, head = SIZES[arguments.size]
    plain = _with(_plain(head, on_gpu=True), arguments.sampler)
    changed = {"plain": plain} | {change: _with(plain, change.split(",")) for change in arguments.change}
    rows = changed if arguments.change else sampling_roofline.settings(plain)
    grid, ceilings = (arguments.grid, arguments.grid), CEILINGS[arguments.roofline]
    shape = f"{arguments.pictures} images of {grid[0]}x{grid[1]} tokens"
    print(f"{arguments.size}, {shape}, bf16, not compiled; computed for {arguments.roofline}\nat {ceilings}\n")
    evaluations = {name: _evaluations(grid, config) for name, config in rows.items()}
    sizes = {"images": arguments.pictures, "grid": grid, "text_tokens": NUM_TEXT_TOKENS}
    print(sampling_roofline.report(mar, head, rows, evaluations, ceilings, **sizes))


def _with(config: SamplerConfig, fields_and_values: Sequence[str]) -> SamplerConfig:
    """Return a sampler with other fields, given as field=value."""
    changed = dict(each.split("=", 1) for each in fields_and_values)
    return SamplerConfig.model_validate(config.model_dump() | changed)


def _changes(workload: Workload, plain: SamplerConfig, changes: Sequence[str]) -> dict[str, Rung]:
    """Return the plain setting and one for each change."""
    settings = {"plain": plain} | {change: _with(plain, change.split(",")) for change in changes}
    return {name: _sampling(workload, config) for name, config in settings.items()} if changes else {}


def _sampling(workload: Workload, config: SamplerConfig, head: TokenSampler | None = None) -> Rung:
    student = workload.few_step if config.head_sampler == "few_step" else workload.student
    if student is None:
        raise SystemExit("this checkpoint has no few-step student: choose one that stage distil_head made")
    given = student, workload.text, workload.text_mask, workload.grid, config, workload.seeds
    return Rung(lambda: sample(*given, head=head), _evaluations(workload.grid, config))


def _evaluations(grid: tuple[int, int], config: SamplerConfig) -> float:
    """Return how often the head is evaluated for a token, with and without the caption, on average."""
    tokens = grid[0] * grid[1]
    plan = plan_iterations(tokens, tokens, config)
    branches = [2 if each.guidance > 1 and config.head_sampler != "few_step" else 1 for each in plan]
    return sum(each.count * each.steps * count for each, count in zip(plan, branches, strict=True)) / tokens


def _ladder(workload: Workload, plain: SamplerConfig, device: torch.device, compiled: bool) -> dict[str, Rung]:
    """Return the rungs: exact ones, then those that change images, then the head's."""
    student = workload.student
    ladder: dict[str, Rung] = {}

    def add(name: str, config: SamplerConfig, head: TokenSampler | None = None) -> None:
        ladder[name] = _sampling(workload, config, head)

    taken: dict[str, bool] = {}
    for rung in ("", *(field.name for field in fields(Rungs))):
        taken |= {rung: True} if rung else {}
        ladder[f"+ {rung}" if rung else "plain"] = _by_rungs(workload, plain, Rungs(**taken))
    guided = plain.model_copy(update={"guidance_schedule": "interval", "guidance_interval": (0.0, 0.7)})
    add("+ guidance until 0.7 is known", guided)
    head_sampler, steps, last = LAST_RUNGS[student.head.config.objective]
    fewer = guided.model_copy(update={"head_sampler": head_sampler, "head_steps": steps})
    add(f"+ {steps} steps of {head_sampler}", fewer)
    falling = fewer.model_copy(update={"head_steps_last": last})
    add(f"+ falling to {last}", falling)
    iterations = math.ceil(2 / 3 * min(plain.iterations, workload.grid[0] * workload.grid[1]))
    fastest = falling.model_copy(update={"iterations": iterations})
    add(f"+ {iterations} iterations", fastest)
    if student.mar.config.text_self_attention:
        fastest = fastest.model_copy(update={"null_text_every": 2})
        add("+ null text in every second", fastest)
    if compiled:
        add("+ compiled head", fastest, TokenSampler(student.head, HeadCompileConfig(compile=True)))
    if workload.few_step is not None and workload.few_step_sampler is not None:
        few_step = workload.few_step_sampler.model_copy(update={"precision": plain.precision})
        half, third = (max(1, few_step.iterations // share) for share in (2, 3))
        for count in (few_step.iterations, iterations, half, third):
            config = few_step.model_copy(update={"iterations": count})
            add(f"few-step student, {count} iterations", config)
        for count in (iterations, half):
            config = few_step.model_copy(update={"iterations": count, **FIRST_TOKENS_ALONE})
            add(f"+ one evaluation after the first tokens, {count} iterations", config)
    if device.type == "cuda":
        add("+ CUDA graphs", fastest, TokenSampler(student.head, HeadCompileConfig(compile=compiled, graphs=True)))
    return ladder


def _plain(head: HeadConfig, on_gpu: bool) -> SamplerConfig:
    """Return the paper's setting, in bf16 on a GPU; a flow head has no DDPM steps."""
    return SamplerConfig(
        head_sampler="euler" if head.objective == "flow" else "ddpm",
        precision="bf16" if on_gpu else "fp32",
    )


def _by_rungs(workload: Workload, config: SamplerConfig, rungs: Rungs) -> Rung:
    given = workload.student, workload.text, workload.text_mask, workload.grid, config, list(workload.seeds), rungs
    return Rung(lambda: sample_by_rungs(*given), _evaluations(workload.grid, config))


def _keep(outputs: dict[str, Tensor], name: str, run: Callable[[], Tensor]) -> Callable[[], object]:
    def kept() -> None:
        outputs[name] = run()

    return kept


def _rows(
    workload: Workload, seconds: Mapping[str, float], outputs: Mapping[str, Tensor], evaluations: Mapping[str, float]
) -> list[tuple[str, ...]]:
    released = next((taken for name, taken in seconds.items() if name not in outputs), None)
    verdicts = {name: workload.judge(tokens) for name, tokens in outputs.items()} if workload.judge else {}
    rows: list[tuple[str, ...]] = []
    for name, taken in seconds.items():
        to_released = f"{released / taken:.2f}" if released else "-"
        score = difference = "-"
        if name in verdicts:
            score = _overall(verdicts[name], workload.prompts)
            difference = _overall(verdicts[name] - verdicts["plain"], workload.prompts, paired=True)
        speed = f"{len(workload.text) / taken:.2f}", f"{seconds['plain'] / taken:.2f}"
        calls = f"{evaluations[name]:.2f}" if name in evaluations else "-"
        rows.append((name, calls, *speed, to_released, score, difference))
    return rows


def _trained(arguments: argparse.Namespace, device: torch.device) -> Workload:
    """Load held-out captions for a student of the scene world."""
    loaded = TextToImage.load(arguments.checkpoint, device)
    prompts = scene_prompts(World(), max(1, arguments.pictures // len(CATEGORIES) // arguments.images), seed=1)
    captions = [prompt.caption for prompt in prompts for _ in range(arguments.images)]
    text, mask = loaded.encode_text(captions)

    def judge(tokens: Tensor) -> np.ndarray:
        latents = unpatchify(tokens, loaded.info.grid, loaded.info.channels, loaded.info.patch)
        correct = judge_scenes(loaded.codec.decode(latents.float()), captions)
        return correct.reshape(len(prompts), arguments.images).astype(np.int8)

    few_step = loaded.few_step, loaded.sampler if loaded.few_step else None
    return Workload(loaded.student, text.to(device), mask.to(device), loaded.info.grid, prompts, judge, *few_step)


def _overall(verdicts: np.ndarray, prompts: Sequence[Prompt], paired: bool = False) -> str:
    overall = score_table(verdicts, prompts, seed=0, resamples=2000, paired=paired)["overall"]
    return f"{overall['value']:.3f} ({overall['low']:.3f} to {overall['high']:.3f})"


def _random(arguments: argparse.Namespace, device: torch.device) -> Workload:
    """Return random weights and text of full length, for speed alone."""
    student = new_student(*SIZES[arguments.size], seed=0).to(device).eval()
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(arguments.pictures, NUM_TEXT_TOKENS, student.mar.config.text_width, generator=generator).to(
        device
    )
    return Workload(student, text, None, (arguments.grid, arguments.grid))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a student's folder; without it random weights")
    parser.add_argument("--size", choices=SIZES, default="mid", help="of random weights")
    parser.add_argument("--grid", type=int, default=GRID[0], help="tokens of a side, of random weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--pictures", type=int, default=120, help="images, sampled as one batch")
    parser.add_argument("--images", type=int, default=1, help="of each held-out caption")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each rung")
    parser.add_argument("--sampler", nargs="+", default=[], metavar="FIELD=VALUE", help="another plain setting")
    parser.add_argument(
        "--change", nargs="+", default=[], metavar="FIELD=VALUE[,FIELD=VALUE]", help="a row each, instead of rungs"
    )
    parser.add_argument("--compile", action="store_true", help="also a compiled head (a minute to compile on a CPU)")
    parser.add_argument("--roofline", choices=CEILINGS, help="run nothing: compute the least time on this GPU")
    parser.add_argument("--released", type=Path, metavar="PATH", help="a checkout of the released code (needs timm)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
