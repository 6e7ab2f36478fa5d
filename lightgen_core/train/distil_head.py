"""Distillation of the full sampler into a few-step student.

A step masks tokens of training images, as pre-training does. From a noise at each of them the teacher samples the token
to its end, guided; the few-step student learns to reach it at once, with the caption alone. Its transformer learns too:
what the teacher's states say with the caption does not tell where guidance leads. A student of several steps learns
each from where its own step before has come to, and the teacher ends from there.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightgen_core.config import DistilConfig
from lightgen_core.data.batches import Batch, TokenSource
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import Objective, get_objective
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.flops import distillation_flops
from lightgen_core.model.mar import Student, gather_tokens
from lightgen_core.sampling.head_samplers import head_steps, sample_head
from lightgen_core.sampling.unmask import Iteration, plan_iterations
from lightgen_core.train.losses import latent_tokens, work_sizes
from lightgen_core.train.step_noise import StepNoise
from lightgen_core.train.train_step import LossOutput, NeverStops


@dataclass(frozen=True)
class DistilHeadCriterion(NeverStops):
    """Squared error of the student's tokens, averaged over an image's tokens, noises and values."""

    teacher: Student
    objective: Objective
    config: DistilConfig
    moments: bool = False
    """True if batches hold means and deviations, from which each step samples tokens."""

    @classmethod
    def create(cls, teacher: Student, source: TokenSource, config: DistilConfig) -> Self:
        """Build the criterion that fits a teacher and its data; its tokens are a function of the noise.

        Raises:
            ValueError: several steps for a teacher of another objective than v, x or flow, or than the student's.
        """
        objective, sampler = teacher.head.config.objective, config.sampler
        if config.head.steps > 1 and config.head.objective != objective:
            raise ValueError(
                f"a few-step student of {config.head.steps} steps takes its teacher's path to the token, but their "
                f"objectives are {config.head.objective} and {objective}: set distil_head.head_steps=1"
            )
        if sampler.head_sampler == "ddpm":
            sampler = sampler.model_copy(update={"head_sampler": "ddim"})
        config = config.model_copy(update={"sampler": sampler})
        return cls(teacher, get_objective(teacher.head.config.objective), config, source.moments)

    def prepare(self, model: FewStepStudent, device: torch.device) -> None:
        """Put teacher and student into evaluation mode: dropout would blur what is to be equal."""
        self.teacher.to(device).eval().requires_grad_(False)
        model.eval()

    def sample_noise(self, grid: tuple[int, int], images: tuple[int, int], generator: Generator) -> StepNoise:
        """Sample masks and the noises to start from; no caption is dropped, and times are not used."""
        shape = (grid[0] * grid[1], self.teacher.mar.config.token_width)
        return StepNoise.sample(self.config, shape, self.objective, generator, images=images, latent_noise=self.moments)

    def losses(self, model: FewStepStudent, batch: Batch, step_noise: StepNoise) -> LossOutput:
        """Compute the losses of the images, (rows,), the mean over the student's steps."""
        iteration = self._iteration(step_noise)
        tokens = latent_tokens(batch, step_noise)
        strength = to_device(torch.tensor(iteration.guidance), tokens.device)
        if step_noise.places is not None:
            tokens = gather_tokens(tokens, step_noise.places)
        starts, reached = model(
            tokens,
            batch.text,
            batch.text_mask,
            batch.grid,
            mask=step_noise.mask,
            masked_index=step_noise.masked_index,
            text_dropped=step_noise.text_dropped,
            noise=self.config.sampler.temperature * step_noise.noise,
            guidance=strength,
            places=step_noise.places,
        )
        targets = self._targets(starts.detach(), self._conditions(batch, tokens, step_noise, iteration), iteration)
        errors = (reached - targets).square().mean(dim=-1)
        return LossOutput(errors.unflatten(2, (-1, step_noise.num_masked)).mean(dim=(0, 1, 3)), {})

    def flops(self, model: FewStepStudent, batch: Batch, step_noise: StepNoise) -> float:
        """Count an update on a batch, without the optimizer."""
        mar, head, sizes = self.teacher.mar.config, self.teacher.head.config, work_sizes(batch, step_noise)
        return len(batch.ids) * distillation_flops(mar, head, self.config.head, self.config.sampler, **sizes)

    def _iteration(self, step_noise: StepNoise) -> Iteration:
        """Return the sampler's iteration that would unmask tokens where so many are masked."""
        length = step_noise.mask.shape[1]
        iterations = plan_iterations(length, length, self.config.sampler)
        return min((each for each in iterations if each.left >= step_noise.num_masked), key=lambda each: each.left)

    @torch.no_grad()
    def _conditions(
        self, batch: Batch, tokens: Tensor, step_noise: StepNoise, iteration: Iteration
    ) -> Float[Tensor, "branches rows width"]:
        """Return the teacher's states at masked tokens, as its head embeds them: with the caption, and without."""
        mar, at = self.teacher.mar, step_noise.masked_index
        positions = mar.positions(batch.grid, step_noise.places)
        states = mar.encode_decode(tokens, step_noise.mask, batch.grid, step_noise.num_masked, positions)
        texts: list[tuple[Tensor, Tensor | None]] = [(mar.align(batch.text, batch.text_mask), batch.text_mask)]
        if iteration.guidance > 1:
            texts.append((mar.null_states(len(tokens)), None))
        branches = [mar.cross_attend(states, text, mask, batch.grid, at, positions) for text, mask in texts]
        return self.teacher.head.condition(torch.stack([branch.flatten(0, 1) for branch in branches]))

    @torch.no_grad()
    def _targets(
        self,
        starts: Float[Tensor, "steps noise_samples rows values"],
        embedded: Float[Tensor, "branches rows width"],
        iteration: Iteration,
    ) -> Float[Tensor, "steps noise_samples rows values"]:
        """Sample tokens to their end with the teacher, from where each step of the student begins.

        The teacher's number of steps is rounded to a multiple of the student's, which so begin at times of its own.
        """
        head, objective, few = self.teacher.head, self.objective, self.config.head.steps
        count = few * max(1, round(iteration.steps / few))
        along = head_steps(objective.name, self.config.sampler.head_sampler, count)
        times = head.embed_time(to_device(torch.tensor([step.timestep for step in along]), starts.device))
        whole = self.config.sampler.model_copy(update={"temperature": 1.0})  # it is in the noise

        def reach(start: Tensor, first: int) -> Tensor:
            def denoiser(noisy: Tensor, index: int) -> Tensor:
                outputs = head.forward_embedded(noisy[:, None], times[first + index], embedded).float()
                with_text, without = outputs[:, 0], outputs[:, -1]
                return with_text if len(embedded) == 1 else without + iteration.guidance * (with_text - without)

            return sample_head(denoiser, objective, whole, along[first:], start[None])

        return torch.stack([reach(start, step * count // few) for step, start in enumerate(starts)])
