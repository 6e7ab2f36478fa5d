"""FLOPs of a recipe's student, for the estimate. Loads no torch."""

from dataclasses import dataclass

from flows.known_models import known_model
from flows.sizes import Size, student_config, token_sizes
from lightgen_core.config import LoopConfig, MarConfig
from lightgen_core.model.flops import (
    expected_training_flops,
    forward_flops,
    num_masked_probabilities,
    sampling_flops,
    student_parameters,
)
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
        return expected_training_flops(self.model, self.recipe.pretrain.head, config.mask, **options)

    def reference(self) -> float:
        """Return FLOPs of one image in the reference of preference tuning: forward alone."""
        dpo, options = self.recipe.dpo, {"tokens": self.last.tokens, "text_tokens": self.text_tokens}
        options["noise_samples"] = dpo.noise_samples_per_token
        return sum(
            share * sum(forward_flops(self.model, self.recipe.pretrain.head, masked=masked, **options).values())
            for masked, share in num_masked_probabilities(self.last.tokens, dpo.mask).items()
        )

    def sampling(self) -> float:
        """Return FLOPs of one sample, decoded."""
        head, codec, last = self.recipe.pretrain.head, known_model(self.recipe.tokens.codec), self.last
        options = {"tokens": last.tokens, "text_tokens": self.text_tokens}
        drawing = sampling_flops(self.model, head, self.recipe.sampler, **options)
        return drawing + last.height * last.width * ((codec and codec.decoder_flops) or 0.0)
