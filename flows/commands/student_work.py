"""FLOPs of a recipe's student, for the estimate. Loads no torch."""

from dataclasses import dataclass

from flows.known_models import known_model
from flows.sizes import Size, projector_config, student_config, token_sizes
from lightgen_core.config import HeadConfig, LoopConfig, MarConfig, SamplerConfig, TrainConfig
from lightgen_core.model.flops import (
    distillation_flops,
    expected_training_flops,
    few_step_head,
    forward_flops,
    sampling_flops,
    step_sizes,
    student_parameters,
)
from tasks.config.distil_head import DistilHead
from tasks.config.recipe import Recipe


@dataclass(frozen=True)
class StudentWork:
    """FLOPs of a recipe's student and its number of weights."""

    recipe: Recipe
    text_tokens: int

    @property
    def model(self) -> MarConfig:
        """Its sizes."""
        return student_config(self.recipe)

    @property
    def last(self) -> Size:
        """The token grid that it samples."""
        return token_sizes(self.recipe)[self.recipe.phases[-1][0]]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return student_parameters(self.model, self.recipe.pretrain.head)

    def training(self, tokens: int, config: LoopConfig) -> float:
        """Return FLOPs of one image, forward and backward, averaged over masks."""
        options = {"tokens": tokens, "text_tokens": self.text_tokens, "noise_samples": config.noise_samples_per_token}
        projector = projector_config(self.recipe) if isinstance(config, TrainConfig) else None
        head = self.recipe.pretrain.head
        return expected_training_flops(self.model, head, config.mask, **options, projector=projector)

    def reference(self) -> float:
        """Return FLOPs of one image in the reference of preference tuning: forward alone."""
        dpo = self.recipe.dpo
        options = {"text_tokens": self.text_tokens, "noise_samples": dpo.noise_samples_per_token}
        return sum(
            share
            * sum(forward_flops(self.model, self.recipe.pretrain.head, tokens=kept, masked=masked, **options).values())
            for (kept, masked), share in step_sizes(self.last.tokens, dpo.mask).items()
        )

    def sampling(self) -> float:
        """Return FLOPs of one sample, decoded."""
        return self._drawing(self.recipe.pretrain.head, self.recipe.sampler) + self._decoding

    def few_step_sampling(self, section: DistilHead) -> float:
        """Return FLOPs of one sample of the few-step head, decoded."""
        teacher = self.recipe.pretrain.head
        sampler, head = section.few_step_sampler(teacher, self.recipe.sampler), few_step_head(section.head(teacher))
        return self._drawing(head, sampler) + self._decoding

    def distilling(self, section: DistilHead) -> float:
        """Return FLOPs of one image of the stage distil_head, teacher and student, averaged over masks."""
        head, sampler = self.recipe.pretrain.head, self.recipe.sampler
        options = {"text_tokens": self.text_tokens, "noise_samples": section.noise_samples_per_token}
        return sum(
            share
            * distillation_flops(self.model, head, section.head(head), sampler, tokens=kept, masked=masked, **options)
            for (kept, masked), share in step_sizes(self.last.tokens, section.mask).items()
        )

    def _drawing(self, head: HeadConfig, sampler: SamplerConfig) -> float:
        return sampling_flops(self.model, head, sampler, tokens=self.last.tokens, text_tokens=self.text_tokens)

    @property
    def _decoding(self) -> float:
        codec = known_model(self.recipe.tokens.codec)
        return self.last.height * self.last.width * ((codec and codec.decoder_flops) or 0.0)
