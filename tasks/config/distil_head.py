"""The recipe's section of the few-step student."""

from typing import Literal

from pydantic import Field

from lightgen_core.config import (
    DistilConfig,
    FewStepConfig,
    FitConfig,
    Fraction,
    HeadConfig,
    MaskConfig,
    OptimizerConfig,
    Positive,
    SamplerConfig,
)


class DistilOptimizerConfig(OptimizerConfig):
    """The optimizer of the few-step student."""

    name: Literal["adamw", "muon"] = Field("muon", description="muon: for weight matrices, and AdamW for the rest")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decay of matrices, not of biases, norms and learned vectors")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up")
    min_lr_ratio: Fraction = Field(0.02, description="cosine: last learning rate over the peak")


class DistilMaskConfig(MaskConfig):
    """Tokens masked in a step: any number that a sampler meets, many more often, since the first tokens are hardest."""

    std: float = Field(0.5, gt=0, description="truncated_normal: standard deviation")
    min_ratio: Fraction = Field(0.0, description="smallest mask ratio; uniform: 0 masks one token or more")


class DistilHead(FitConfig):
    """Distillation of the full sampler into a student that needs one or two evaluations of its head a token."""

    steps: Positive = Field(2000, description="optimizer updates")
    batch_size: Positive = Field(96, description="images of one update")
    noise_samples_per_token: Positive = Field(
        1, description="noises of each masked token, each sampled to the end by the full sampler"
    )
    mask: DistilMaskConfig = Field(default_factory=DistilMaskConfig, description="how many tokens are masked")
    head_steps: Positive | None = Field(
        None,
        description="evaluations of the few-step head for a token, evenly over time; none: 2, and 1 where "
        "pretrain.head.objective is ddpm",
    )
    width: Positive | None = Field(None, description="width of the head's residual MLP; none: that of pretrain.head")
    depth: Positive | None = Field(None, description="residual blocks of the head; none: as many as pretrain.head has")
    temperature: float | None = Field(
        None,
        ge=0,
        description="scale of the noise that the few-step student learns from and samples with; none: the sampler's. "
        "The smaller, the less hangs on the noise: nearer to the full sampler at that temperature, and less diverse",
    )
    guidance_scale: float | None = Field(
        None,
        ge=1,
        description="guidance of the full sampler that teaches; none: the sampler's. The greater, the fewer tokens a "
        "caption leaves open, which few evaluations blur",
        exclude_if=lambda scale: scale is None,  # keys of recipes without it stay, here and below
    )
    iterations: Positive | None = Field(
        None,
        description="unmasking iterations of the few-step student; none: the sampler's",
        exclude_if=lambda iterations: iterations is None,
    )
    head_steps_last: Positive | None = Field(
        None,
        description="evaluations where head_steps_last_at of the tokens are known, fewer in proportion on the way; "
        "none: head_steps",
        exclude_if=lambda steps: steps is None,
    )
    head_steps_last_at: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the tokens that is known when head_steps_last is reached, which holds from there on",
        exclude_if=lambda share: share == 1,
    )
    optimizer: DistilOptimizerConfig = Field(
        default_factory=DistilOptimizerConfig, description="Muon and its learning rate"
    )
    ema_decay: float = Field(0.995, ge=0, lt=1, description="decay of the averaged weights; smaller at first")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the forward pass; weights stay fp32")

    def head(self, teacher: HeadConfig) -> FewStepConfig:
        """Return the sizes of the head that replaces a teacher's."""
        sizes = {"width": self.width or teacher.width, "depth": self.depth or teacher.depth}
        if teacher.objective == "ddpm":
            return FewStepConfig(**sizes, objective="v", steps=1)
        return FewStepConfig(**sizes, objective=teacher.objective, steps=self.head_steps or 2)

    def sampler(self, full: SamplerConfig) -> SamplerConfig:
        """Return the full sampler that teaches."""
        fields = {"temperature": self.temperature, "guidance_scale": self.guidance_scale}
        return full.model_copy(update={name: value for name, value in fields.items() if value is not None})

    def few_step_sampler(self, teacher: HeadConfig, full: SamplerConfig) -> SamplerConfig:
        """Return the default sampler of the few-step student."""
        fields = {
            "head_sampler": "few_step",
            "head_steps": self.head(teacher).steps,
            "head_steps_last": self.head_steps_last,
            "head_steps_last_at": self.head_steps_last_at,
            "iterations": self.iterations or full.iterations,
        }
        return self.sampler(full).model_copy(update=fields)

    def config(self, teacher: HeadConfig, full: SamplerConfig) -> DistilConfig:
        """Return the training's configuration."""
        fields = self.model_dump(include=set(DistilConfig.model_fields))
        return DistilConfig(**fields, head=self.head(teacher), sampler=self.sampler(full))
