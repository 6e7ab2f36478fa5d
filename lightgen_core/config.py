"""Pydantic sections of student, sampler and training, every field with its unit; other rooms have a `config.py` too.

Torch-free on purpose: the command line, a deployment and the Prefect UI read these without loading a model.
A section is frozen and refuses unknown keys, so a misspelt knob is an error and a section can enter an artifact's key.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """New names of renamed fields, by their former names."""

    @classmethod
    def with_new_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a section that an earlier release saved, under the names of today."""
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _boolean_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans, alone or in a list, in fields of other types; pydantic takes them as 0 and 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        values = value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(each, bool) for each in values) and bool not in (annotation, *get_args(annotation)):
            raise PydanticCustomError("boolean", "this field takes no booleans; put a text such as 'true' in quotes")
        return value


class BlocksConfig(Section):
    """The blocks of the masked autoregressive student (paper Fig. 2). Defaults are the paper's 0.7B (large)."""

    width: Positive = Field(1024, description="width of every transformer block")
    heads: Positive = Field(16, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of a block's MLP over its width")
    aligner_depth: int = Field(6, ge=0, description="blocks that align text states")
    encoder_depth: int = Field(16, ge=0, description="blocks over the visible tokens")
    decoder_depth: int = Field(16, ge=0, description="blocks over all tokens")
    text_depth: Positive = Field(16, description="blocks in which image states attend to the text")
    text_self_attention: bool = Field(False, description="self-attention of image states in text blocks (released: no)")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of attention and projections while training")
    attend_to_padding: bool = Field(False, description="attend to padding, as the released code does")
    released_positions: bool = Field(
        False, description="interpolate positions as the released code does: offset 0.1, rows and columns swapped"
    )
    qk_norm: bool = Field(
        False,
        description="RMS norm of queries and keys, head by head (Henry et al. 2020): attention's scores stay bounded",
        exclude_if=lambda on: not on,  # keys of recipes without it stay
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class MarConfig(BlocksConfig):
    """The masked autoregressive student: its blocks, and what they read."""

    token_width: Positive = Field(64, description="values of one image token: latent channels x patch x patch")
    text_width: Positive = Field(4096, description="width of the frozen text encoder's states")
    position_grid: Positive = Field(16, description="side of the position table, tokens; other grids are interpolated")


class HeadConfig(Section):
    """The per-token diffusion head: a residual MLP with AdaLN modulation (MAR, Sec. 3.2)."""

    width: Positive = Field(1536, description="width of the residual MLP")
    depth: Positive = Field(8, description="residual blocks")
    objective: Literal["ddpm", "v", "x", "flow"] = Field(
        "ddpm",
        description="ddpm: noise prediction with learned variance, as released; v; x: the clean token, with v's loss; "
        "flow",
    )


class MaskConfig(Section):
    """Number of tokens masked in a training step."""

    renamed: ClassVar = {"kind": "distribution", "low": "min_ratio"}

    distribution: Literal["truncated_normal", "uniform"] = Field("truncated_normal", description="of the mask ratio")
    mean: float = Field(1.0, description="truncated_normal: mean of the mask ratio")
    std: float = Field(0.25, gt=0, description="truncated_normal: standard deviation")
    min_ratio: Fraction = Field(0.7, description="smallest mask ratio; uniform: 0 masks one token or more")
    multiple: Positive = Field(1, description="masked tokens are rounded down to a multiple, unless fewer, or all")
    drop_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the masked tokens that a step leaves out: not in decoder, text blocks and loss",
        exclude_if=lambda ratio: ratio == 0,  # keys of recipes without it stay
    )

    def rounded(self, num_masked: int, tokens: int) -> int:
        """Round down to the multiple; fewer than it stay, and so do all tokens.

        Up, far more steps would mask every token; and without these the first iteration of sampling is not learned.
        """
        whole = num_masked // self.multiple * self.multiple
        return whole if whole and num_masked < tokens else num_masked

    def num_learned(self, num_masked: int) -> int:
        """Return how many of so many masked tokens a step learns, one at least."""
        return max(1, num_masked - int(self.drop_ratio * num_masked))


class TimestepsConfig(Section):
    """Noise levels of a training step, from numbers uniform in [0, 1)."""

    distribution: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="logit_normal: middle levels more often than clean and noisy ones (Esser et al. 2024)"
    )
    mean: float = Field(0.0, description="logit_normal: mean of the logit")
    std: float = Field(1.0, gt=0, description="logit_normal: standard deviation of the logit")
    shift: float = Field(
        1.0, gt=0, description="s t / (1 + (s - 1) t): above 1 towards noise, as for many tokens; below 1 towards data"
    )


class OptimizerConfig(Section):
    """The optimizer, with warm-up and a falling rate."""

    renamed: ClassVar = {"kind": "name", "clip": "max_grad_norm", "final_share": "min_lr_ratio"}

    name: Literal["adamw", "muon"] = Field("adamw", description="muon: for weight matrices, and AdamW for the rest")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay of the two moments")
    ns_steps: Positive = Field(
        5,
        description="muon: Newton-Schulz iterations of an update",
        exclude_if=lambda steps: steps == 5,  # keys of recipes without it stay
    )
    weight_decay: float = Field(0.02, ge=0, description="decay of matrices, not of biases, norms and learned vectors")
    max_grad_norm: float = Field(3.0, gt=0, description="largest gradient norm")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up")
    min_lr_ratio: Fraction = Field(0.0, description="cosine: last learning rate over the peak")


class SamplerConfig(Section):
    """Sampling of images from a student."""

    renamed: ClassVar = {"guidance": "guidance_scale"}

    iterations: Positive = Field(64, description="steps of the cosine schedule, at most the number of tokens")
    head_steps: Positive = Field(100, description="steps of the head's sampler for each token")
    head_steps_last: Positive | None = Field(
        None, description="head steps where all tokens are known, fewer in proportion on the way; none: head_steps"
    )
    head_steps_last_at: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the tokens that is known when head_steps_last is reached, which holds from there on",
        exclude_if=lambda share: share == 1,  # keys of recipes without it stay
    )
    head_sampler: Literal["ddpm", "ddim", "euler", "few_step"] = Field(
        "ddpm",
        description="for flow: euler; for others ddpm or ddim; few_step: the student of stage distil_head, for at most "
        "as many head_steps as it learned",
    )
    guidance_scale: float = Field(4.0, ge=1, description="classifier-free guidance; 1 is none")
    guidance_schedule: Literal["constant", "linear", "interval"] = Field(
        "constant", description="linear: grows with the known share of tokens; interval: only in guidance_interval"
    )
    guidance_interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="interval: first and last known share of the tokens at which guidance acts"
    )
    null_text_every: Positive = Field(
        1,
        description="iterations for one run of the null text, after the first two, if image states attend to each "
        "other in the text blocks; in between its states are the caption's with the last difference (LazyMAR)",
        exclude_if=lambda every: every == 1,  # keys of recipes without it stay
    )
    temperature: float = Field(1.0, ge=0, description="scale of the noise the head adds")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of the student while it samples")

    @model_validator(mode="after")
    def _steps_fall_and_intervals_rise(self) -> "SamplerConfig":
        if self.head_steps_last is not None and self.head_steps_last > self.head_steps:
            raise ValueError(f"head_steps_last {self.head_steps_last} exceeds head_steps {self.head_steps}; lower it")
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(f"guidance_interval {self.guidance_interval}: expected the smaller share first")
        return self


class UpdatesConfig(Section):
    """The updates of a training, and the average of its weights."""

    steps: Positive = Field(100_000, description="optimizer updates")
    batch_size: Positive = Field(2048, description="rows of one update: images, or pairs of images")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="AdamW and its learning rate")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights; smaller at first")


class MaskedUpdatesConfig(UpdatesConfig):
    """Updates of a student, from masked tokens."""

    noise_samples_per_token: Positive = Field(4, description="time steps and noises sampled for each masked token")
    timesteps: TimestepsConfig = Field(
        default_factory=TimestepsConfig,
        description="at which noise levels the head learns",
        exclude_if=lambda section: section == TimestepsConfig(),  # keys of recipes without it stay
    )
    mask: MaskConfig = Field(default_factory=MaskConfig, description="how many tokens are masked")


class RecordsConfig(Section):
    """Precision, log and checkpoints of a training."""

    precision: Literal["fp32", "bf16"] = Field("bf16", description="autocast of the forward pass; weights stay fp32")
    log_every: Positive = Field(50, description="steps averaged into one row of the log")
    checkpoint_every: Positive = Field(1000, description="steps between checkpoints, a multiple of log_every")
    keep_checkpoints: Positive = Field(2, description="checkpoints kept; with two a damaged one costs little")

    @model_validator(mode="after")
    def _checkpoints_fall_on_log_rows(self) -> Self:
        if self.checkpoint_every % self.log_every:
            raise ValueError(f"checkpoint_every {self.checkpoint_every} is no multiple of log_every {self.log_every}")
        return self


class FitConfig(RecordsConfig, UpdatesConfig):
    """The training loop, of any model."""


class LoopConfig(FitConfig, MaskedUpdatesConfig):
    """The training loop, shared by pre-training and preference tuning; the bases' order is that of the fields."""

    renamed: ClassVar = {"draws_per_token": "noise_samples_per_token", "keep": "keep_checkpoints"}


class ParallelConfig(Section):
    """Parallelism of training, in no artifact's key: it changes rounding and micro-batches' dropout alone."""

    renamed: ClassVar = {"recompute": "activation_checkpointing", "word_multiple": "pad_text_to_multiple_of"}

    processes: Positive = Field(1, description="training processes started on this machine, one for each GPU")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="ddp: every process holds the whole model; fsdp: its share of weights and optimizer"
    )
    micro_batch: Positive | Literal["auto"] | None = Field(
        "auto",
        description="rows of one forward and backward pass; auto: on a GPU as many as its memory holds, fewer after it "
        "ran out, on a CPU all; none: all rows of the process at once",
    )
    activation_checkpointing: bool = Field(
        False, description="keep no activations inside blocks, compute them again in the backward pass: less memory"
    )
    compile: bool = Field(False, description="torch.compile the blocks")
    pad_text_to_multiple_of: Positive = Field(
        16, description="compile: texts are padded to a multiple of this, so that few shapes are compiled, tokens"
    )


class ProjectorConfig(Section):
    """The projector of representation alignment: from a block's states to the features of a frozen encoder."""

    depth: Positive = Field(description="number of the block whose states it reads, of decoder and text blocks in turn")
    width: Positive = Field(description="width of its two hidden layers")
    feature_channels: Positive = Field(description="values of a token's features")


class RepaConfig(Section):
    """Representation alignment (REPA, Yu et al. 2024): states of a block also predict a frozen encoder's features."""

    weight: float = Field(0.5, ge=0, description="of the alignment loss, 1 - cosine, beside the head's; 0: none")
    depth: Positive | None = Field(
        None,
        description="number of the block whose states are aligned: 1 is the decoder's first, and behind its last come "
        "those that read the text; none: the one in the middle of the decoder",
    )
    projector_width: Positive | None = Field(
        None, description="width of the projector's two hidden layers; none: twice the student's"
    )

    def resolve(self, mar: BlocksConfig, feature_channels: int) -> ProjectorConfig:
        """Return the projector of a student."""
        return ProjectorConfig(
            depth=self.depth or max(1, (mar.decoder_depth + 1) // 2),
            width=self.projector_width or 2 * mar.width,
            feature_channels=feature_channels,
        )


class TrainConfig(LoopConfig):
    """Pre-training of a student on tokens."""

    renamed: ClassVar = {**LoopConfig.renamed, "text_drop": "caption_dropout"}

    caption_dropout: Fraction = Field(0.1, description="share of images trained with the null text, for guidance")
    repa: RepaConfig | None = Field(
        None,
        description="also align a block's states with tokens.features, which speeds training up; none: no alignment",
        exclude_if=lambda section: section is None,  # keys of recipes without it stay
    )
    residual_precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="the stream that the transformer's blocks add to; bf16, with precision bf16: half the bytes of "
        "sums and norms on a GPU",
        exclude_if=lambda precision: precision == "fp32",  # keys of recipes without it stay
    )
    fp8: Literal["none", "tensorwise", "emulated"] = Field(
        "none",
        description="products of MLPs and of the head's blocks in fp8, with precision bf16 (torchao; a GPU of compute "
        "capability 8.9); tensorwise: a scale for each tensor; emulated: that rounding on any device, slowly",
        exclude_if=lambda fp8: fp8 == "none",
    )

    @field_validator("repa")
    @classmethod
    def _alignment_has_a_weight(cls, repa: RepaConfig | None) -> RepaConfig | None:
        """Leave an alignment of weight 0 out, so that one training is written in one way."""
        return repa if repa is not None and repa.weight else None

    @model_validator(mode="after")
    def _lower_precisions_need_bf16(self) -> Self:
        lower = {"residual_precision=bf16": self.residual_precision == "bf16", f"fp8={self.fp8}": self.fp8 != "none"}
        if self.precision == "fp32" and any(lower.values()):
            asked = " and ".join(name for name, given in lower.items() if given)
            raise ValueError(
                f"{asked} with precision=fp32: set precision=bf16, which the rest then has, or leave it out"
            )
        return self


class DpoOptimizerConfig(OptimizerConfig):
    """The optimizer of preference tuning: a smaller rate, and no decay away from the initial student."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decay of matrices, not of biases, norms and learned vectors")


class DpoConfig(LoopConfig):
    """Preference tuning on pairs of images, and the guards that keep the winner likely."""

    renamed: ClassVar = {**LoopConfig.renamed, "guard": "displacement_guard", "tolerance_horizon": "tolerance_window"}

    steps: Positive = Field(2000, description="optimizer updates")
    batch_size: Positive = Field(256, description="pairs of one update")
    optimizer: DpoOptimizerConfig = Field(default_factory=DpoOptimizerConfig, description="AdamW and its learning rate")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay of the averaged weights; smaller at first")
    log_every: Positive = Field(10, description="steps averaged into one row of the log")
    checkpoint_every: Positive = Field(100, description="steps between checkpoints, a multiple of log_every")
    objective: Literal["dpo", "ipo", "kto", "mapo", "sft", "nft"] = Field(
        "dpo",
        description="dpo: Diffusion-DPO, the paper's; ipo: with a margin that ends; kto: winner and loser each on "
        "their own; mapo: without a reference; sft: the winner alone, as a control; nft: a contrast with the student "
        "that drew the pair, for pairs of its own samples (pairs.kind: best_worst)",
    )
    beta: float = Field(
        5000.0,
        gt=0,
        description="dpo, ipo, kto, mapo: strength of the preference; larger stays closer to the reference",
    )
    contrast: float = Field(1.0, gt=0, description="nft: how far the two targets lie from the reference")
    rounds: Positive = Field(
        1,
        description="times that the student is sampled for pairs, judged and tuned; each round begins with the student "
        "of the one before, and is an artifact of its own",
        exclude_if=lambda rounds: rounds == 1,  # keys of recipes without it stay
    )
    control: Literal["none", "sft"] = Field(
        "none",
        description="sft: tune a second student in as many rounds and steps, on the winners of its own pairs alone, "
        "and score it beside the first",
        exclude_if=lambda control: control == "none",
    )
    control_learning_rate: float | None = Field(
        None,
        gt=0,
        description="of the control, and of the same objective in its place (lightgen ablate --axis preference); left "
        "out: the optimizer's. What suits a contrast can break fine-tuning",
        exclude_if=lambda rate: rate is None,
    )
    displacement_guard: Literal["none", "sdpo", "anchor", "both"] = Field(
        "sdpo",
        description="for the winner's sake, sdpo: scale the loser's gradient (of dpo, ipo, kto, mapo; sft and nft have "
        "none of it); anchor: train on the winner too, with any objective",
    )
    sdpo_mu: Fraction = Field(0.0, description="sdpo: share of the winner's first-order gain that the loser must leave")
    anchor_weight: float = Field(1.0, ge=0, description="anchor: weight of the winner's error, in units of beta / 2")
    tolerance: float = Field(0.05, gt=0, description="largest relative rise of the winner's error over the reference's")
    tolerance_window: Positive = Field(5, description="log rows over which that rise is averaged before it is judged")

    @model_validator(mode="after")
    def _rate_has_a_control(self) -> Self:
        if self.control_learning_rate is not None and self.control == "none":
            raise ValueError("control_learning_rate: there is no control; set control, or leave the rate out")
        return self


class FewStepConfig(Section):
    """The few-step head: a diffusion head that knows the guidance and predicts where the full sampler ends."""

    width: Positive = Field(description="width of the residual MLP")
    depth: Positive = Field(description="residual blocks")
    objective: Literal["v", "x", "flow"] = Field("v", description="path between token and noise, and what is predicted")
    steps: Positive = Field(1, description="evaluations that it learned to take, evenly over time")


class DistilConfig(LoopConfig):
    """Distillation of the full sampler into a few-step student."""

    head: FewStepConfig = Field(description="sizes of its head")
    sampler: SamplerConfig = Field(description="the sampler whose tokens are learned; ancestral steps as those of ddim")
