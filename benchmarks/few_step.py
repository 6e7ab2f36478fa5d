"""The few-step student beside the full sampler: images per second in turns, and scores on the same captions and seeds.

    python -m benchmarks.few_step STORE/distil_head/KEY/student --threads 2

Text encoder and image decoder are not timed. Scores are the scene world's detector on held-out captions; the difference
is paired, with a 95 % interval bootstrapped over captions. `--rounds 0` scores without timing, `--seeds 0` the reverse.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import interleaved
from lightgen_core.device import pick_device
from lightgen_core.evaluation.scene import judge_scenes, scene_prompts
from lightgen_core.evaluation.scores import score_table
from lightgen_core.model.patchify import unpatchify
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.unmask import sample
from lightgen_core.scene.config import World
from lightgen_core.scene.vocabulary import CATEGORIES


def main() -> None:
    """Print a row for each sampler, and the paired difference."""
    arguments = _arguments()
    device = pick_device(arguments.device, arguments.threads)
    loaded = TextToImage.load(arguments.student, device)
    prompts = scene_prompts(World(), max(1, arguments.pictures // len(CATEGORIES)), seed=1)
    captions = [prompt.caption for prompt in prompts]
    text, mask = loaded.encode_text(captions)
    few_step = loaded.sampler.model_copy(update={"head_sampler": "few_step"})
    steps = {"head_sampler": arguments.full, "head_steps": arguments.full_steps}
    samplers = {"full": few_step.model_copy(update=steps), "few_step": few_step}
    for iterations in arguments.iterations:
        samplers[f"few_step, {iterations} iterations"] = few_step.model_copy(update={"iterations": iterations})
    runs = {
        name: partial(sample, loaded.sampled(config), text, mask, loaded.info.grid, config)
        for name, config in samplers.items()
    }
    count, correct = len(prompts), {}
    for name, run in runs.items() if arguments.seeds else ():
        verdicts = []
        for seed in range(arguments.seeds):
            tokens = run([1000 * seed + image for image in range(count)])
            latents = unpatchify(tokens, loaded.info.grid, loaded.info.channels, loaded.info.patch)
            verdicts.append(judge_scenes(loaded.codec.decode(latents.float()), captions))
        correct[name] = np.stack(verdicts, axis=1).astype(np.int8)
        print(f"{name}: overall {_overall(correct[name], prompts)}")
    for name in runs if correct else ():
        if name != "full":
            print(f"{name} less full: {_overall(correct[name] - correct['full'], prompts)}")
    if arguments.rounds:
        timed = {name: partial(run, range(count)) for name, run in runs.items()}
        seconds = interleaved.seconds(timed, arguments.rounds, device)
        for name, taken in seconds.items():
            print(f"{name}: {count / taken:.1f} images/s, {seconds['full'] / taken:.2f} times full")


def _overall(correct: np.ndarray, prompts: list) -> str:
    overall = score_table(correct, prompts, seed=0, resamples=2000)["overall"]
    return f"{overall['value']:.3f} ({overall['low']:.3f} to {overall['high']:.3f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("student", type=Path, help="folder of a student that was distilled")
    parser.add_argument("--full", default="ddim", choices=("ddim", "euler"), help="the full sampler that taught it")
    parser.add_argument("--full-steps", type=int, default=12, help="head steps of the full sampler")
    parser.add_argument("--iterations", type=int, nargs="*", default=[], help="of further rows of few_step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--pictures", type=int, default=240, help="captions, sampled as one batch")
    parser.add_argument("--seeds", type=int, default=2, help="images of each caption that are scored")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each sampler")
    return parser.parse_args()


if __name__ == "__main__":
    main()
