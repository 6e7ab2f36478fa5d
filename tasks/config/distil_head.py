"""The recipe's section of the few-step head."""

from typing import Literal

from pydantic import Field

from lightgen_core.config import FewStepConfig, FitConfig, Fraction, HeadConfig, OptimizerConfig, Positive


class DistilOptimizerConfig(OptimizerConfig):
    """The optimizer of the few-step head."""

    name: Literal["adamw", "muon"] = Field("muon", description="muon: for weight matrices, and AdamW for the rest")
    learning_rate: float = Field(4e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decay of matrices, not of biases, norms and learned vectors")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up")
    min_lr_ratio: Fraction = Field(0.02, description="cosine: last learning rate over the peak")


class DistilHead(FitConfig):
    """Distillation of the full sampler into a head that needs one evaluation a token, the transformer frozen."""

    images: Positive = Field(2000, description="images that the full sampler draws for training captions")
    tokens_per_image: Positive = Field(16, description="tokens of an image that the head learns from, at most")
    noise_samples_per_token: Positive = Field(
        16, description="noises of each of these tokens, each sampled to the end by the full sampler"
    )
    width: Positive | None = Field(None, description="width of the head's residual MLP; none: that of pretrain.head")
    depth: Positive | None = Field(None, description="residual blocks of the head; none: as many as pretrain.head has")
    null_text: bool = Field(
        False,
        description="whether the head also sees a token's state with the null text, as the full sampler does: nearer "
        "to it, at the cost of the second branch",
        exclude_if=lambda on: not on,  # keys of recipes without it stay
    )
    steps: Positive = Field(4000, description="optimizer updates")
    batch_size: Positive = Field(128, description="tokens of one update, each with all its noises")
    optimizer: DistilOptimizerConfig = Field(
        default_factory=DistilOptimizerConfig, description="Muon and its learning rate"
    )
    ema_decay: float = Field(0.995, ge=0, lt=1, description="decay of the averaged weights; smaller at first")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the forward pass; weights stay fp32")
    shard_size: Positive = Field(256, description="images of one shard, sampled as one batch")

    def head(self, teacher: HeadConfig) -> FewStepConfig:
        """Return the sizes of the head that replaces a teacher's."""
        return FewStepConfig(
            width=self.width or teacher.width, depth=self.depth or teacher.depth, null_text=self.null_text
        )
