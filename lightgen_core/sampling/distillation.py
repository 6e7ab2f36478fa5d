"""Pairs for a few-step head: noises, and the tokens that the full sampler reaches from them while it draws images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.model.few_step import few_step_states
from lightgen_core.model.mar import Student
from lightgen_core.sampling.head_samplers import head_steps, sample_head
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample
from lightgen_core.seeds import derive_seed


@dataclass(frozen=True)
class SampledPairs:
    """Tokens chosen while images were drawn, image after image for each iteration; all on the CPU.

    image: which image of the batch; states: as the few-step head sees them; noise: where the sampler started,
    temperature included, rounded to half precision before the sampler saw it; tokens: where it ended.
    """

    image: Int[Tensor, " rows"]
    guidance: Float[Tensor, " rows"]
    states: Float[Tensor, "rows states_width"]
    noise: Float[Tensor, "rows noise_samples values"]
    tokens: Float[Tensor, "rows noise_samples values"]


def deterministic(sampler: SamplerConfig) -> SamplerConfig:
    """Return the sampler whose tokens are a function of the noise: ancestral steps become those of ddim."""
    return sampler.model_copy(update={"head_sampler": "ddim"}) if sampler.head_sampler == "ddpm" else sampler


def sample_pairs(
    student: Student,
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    config: SamplerConfig,
    seeds: Sequence[int],
    *,
    tokens_per_image: int,
    noise_samples: int,
    null_text: bool = False,
    head_compile: HeadCompileConfig | None = None,
) -> SampledPairs:
    """Draw an image for each text, and from tokens of each sample further noises to the end.

    Args:
        text, text_mask, grid, seeds: as `sample`; an image's choice of tokens and its noises follow from its seed too.
        config: a deterministic sampler (`deterministic`).
        tokens_per_image: at most; chosen at random.
        null_text: whether `states` hold the null text's too (`few_step_states`).
    """
    recorder = _Recorder(student, head_compile, seeds, grid[0] * grid[1], tokens_per_image, noise_samples, null_text)
    sample(student, text, text_mask, grid, config, seeds, head=recorder)
    names = ("image", "guidance", "states", "noise", "tokens")
    return SampledPairs(**{name: torch.cat([part[name] for part in recorder.parts]) for name in names})


class _Recorder(TokenSampler):
    """Samples as the full sampler does, and keeps what it does from further noises."""

    def __init__(
        self,
        student: Student,
        head_compile: HeadCompileConfig | None,
        seeds: Sequence[int],
        length: int,
        tokens_per_image: int,
        noise_samples: int,
        null_text: bool,
    ) -> None:
        # The host reads states between iterations, so they are not recorded as graphs.
        super().__init__(student.head, HeadCompileConfig(compile=head_compile is not None and head_compile.compile))
        self.parts: list[dict[str, Tensor]] = []
        self._noise_samples, self._null_text, self._done = noise_samples, null_text, 0
        # Not the images' own generators, so that recording changes no image.
        self._generators = [Generator().manual_seed(derive_seed(seed, "further noises")) for seed in seeds]
        chosen = torch.zeros(len(seeds), length, dtype=torch.bool)
        for row, generator in zip(chosen, self._generators, strict=True):
            row[torch.randperm(length, generator=generator)[:tokens_per_image]] = True
        self._chosen = chosen

    @torch.no_grad()
    def tokens(
        self,
        conditions: Float[Tensor, "branches rows condition_width"],
        noises: Float[Tensor, "noises rows values"],
        config: SamplerConfig,
        times: Float[Tensor, "steps width"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "rows values"]:
        """Sample the image's tokens; record those that were chosen."""
        count = conditions.shape[1] // len(self._generators)
        chosen = self._chosen[:, self._done : self._done + count]
        self._done += count
        if chosen.any():
            where = to_device(chosen.flatten().nonzero()[:, 0], conditions.device)
            self._record(chosen, conditions[:, where], noises.shape[2], config, times, strength)
        return super().tokens(conditions, noises, config, times, strength)

    def _record(
        self, chosen: Tensor, conditions: Tensor, width: int, config: SamplerConfig, times: Tensor, strength: Tensor
    ) -> None:
        samples, rows = self._noise_samples, conditions.shape[1]
        drawn = [
            torch.randn(samples, int(tokens), width, generator=generator)
            for generator, tokens in zip(self._generators, chosen.sum(dim=1), strict=True)
        ]
        start = (config.temperature * torch.cat(drawn, dim=1)).half().float()
        reached = self._reach(to_device(start, conditions.device), conditions, config, times, strength)
        part = {
            "image": chosen.nonzero()[:, 0],
            "guidance": strength.expand(rows),
            "states": few_step_states(conditions, self._null_text),
            "noise": start.transpose(0, 1),
            "tokens": reached.transpose(0, 1),
        }
        self.parts.append(
            {name: value.cpu() if name == "image" else value.float().cpu() for name, value in part.items()}
        )

    def _reach(
        self,
        start: Float[Tensor, "noise_samples rows values"],
        conditions: Float[Tensor, "branches rows condition_width"],
        config: SamplerConfig,
        times: Float[Tensor, "steps width"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "noise_samples rows values"]:
        """Run the sampler's steps from several noises of each state.

        As `TokenSampler` does, but with the head's modulations, over half of its work, computed once for all noises.
        """
        head, objective = self._head, self._objective
        along = head_steps(objective.name, config.head_sampler, len(times))
        embedded = head.condition(conditions)

        def denoiser(noisy: Tensor, index: int) -> Tensor:
            outputs = head.forward_embedded(noisy[:, None], times[index], embedded).float()
            with_text, without = outputs[:, 0], outputs[:, -1]
            return without + strength * (with_text - without) if len(conditions) > 1 else with_text

        whole = config.model_copy(update={"temperature": 1.0})  # it is in the noise
        return sample_head(denoiser, objective, whole, along, start[None])
