"""The section of pre-training: the student, what it sees, and what is looked at on the way."""

from typing import Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from lightgen_core.config import HeadConfig, Positive, TrainConfig
from lightgen_core.model.presets import PRESETS
from tasks.config.curriculum import CaptionShares, Phase, SourceWeights
from tasks.config.student import DEFAULT_PRESET, StudentConfig
from tasks.config.validation import Validation


class Pretrain(TrainConfig):
    """The student and its training."""

    renamed: ClassVar = {**TrainConfig.renamed, "start": "init_from"}

    model: StudentConfig = Field(
        default_factory=StudentConfig,
        description="the masked autoregressive transformer; a preset's name, or its fields",
    )
    head: HeadConfig = Field(default_factory=HeadConfig, description="the per-token diffusion head; as the preset says")
    init_from: str | None = Field(
        None, description="folder of a student whose averaged weights training starts from; none: fresh weights"
    )
    weights: SourceWeights | None = Field(
        None,
        description="how often training sees which source; none: all images equally often",
        exclude_if=lambda weights: weights is None,
    )
    caption_shares: CaptionShares | None = Field(
        None,
        description="which caption an image comes with; none: always the original",
        exclude_if=lambda shares: shares is None,
    )
    previews: int = Field(
        0,
        ge=0,
        description="times, evenly over all steps, that held-out captions are sampled with the averaged weights, for "
        "the report and while training goes on; 0: never",
        exclude_if=lambda count: count == 0,  # keys of recipes without stay
    )
    preview_captions: tuple[str, ...] = Field(
        (),
        description="captions of the previews; none: one of each category of the scene world's held-out captions, or "
        "of GenEval's form",
        exclude_if=lambda captions: not captions,
    )
    validation: Validation | None = Field(
        None,
        description="put images aside and measure the averaged weights' loss on them; none: train on all that dedup "
        "keeps",
        exclude_if=lambda section: section is None,
    )
    keep_steps: tuple[Positive, ...] = Field(
        (),
        description="steps, of all phases together, after which the averaged student is kept beside the last one: for "
        "evaluation.checkpoint and for lightgen ablate --axis checkpoints",
        exclude_if=lambda steps: not steps,
    )
    phases: tuple[Phase, ...] = Field(
        (), description="phases after the first, which is this section itself on the smallest of tokens.sizes"
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the schema with the defaults of the default preset."""
        schema = handler(core)
        own = handler.resolve_ref_schema(schema)["properties"]
        for section, defaults in PRESETS[DEFAULT_PRESET]._asdict().items():
            fields = handler.resolve_ref_schema(own["model" if section == "blocks" else section])["properties"]
            for name, value in defaults.items():
                fields[name]["default"] = value
        return schema

    @model_validator(mode="before")
    @classmethod
    def _preset_gives_the_head(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("head", {}), dict):
            return values
        model = values.get("model", {})
        name = model if isinstance(model, str) else dict(model).get("preset", DEFAULT_PRESET)
        return {**values, "head": {**PRESETS[name].head, **values.get("head", {})}} if name in PRESETS else values

    @model_validator(mode="after")
    def _previews_have_steps(self) -> "Pretrain":
        steps = self.steps + sum(phase.steps for phase in self.phases)
        if self.previews > steps:
            raise ValueError(f"previews {self.previews} exceed the {steps} steps of training; lower them")
        if self.preview_captions and not self.previews:
            raise ValueError("preview_captions are given and previews is 0: say how many times they are to be sampled")
        return self

    @model_validator(mode="after")
    def _kept_steps_are_steps(self) -> "Pretrain":
        total, kept = self.steps + sum(phase.steps for phase in self.phases), self.keep_steps
        if list(kept) != sorted(set(kept)) or any(step > total for step in kept):
            raise ValueError(f"keep_steps are {list(kept)}; expected ascending steps up to the last, {total}")
        return self

    @model_validator(mode="after")
    def _alignment_has_a_block(self) -> "Pretrain":
        depth, model = None if self.repa is None else self.repa.depth, self.model
        if depth is not None and depth > model.decoder_depth + model.text_depth:
            raise ValueError(
                f"repa.depth is {depth}; the student has {model.decoder_depth} blocks of the decoder and behind them "
                f"{model.text_depth} that read the text"
            )
        return self

    @model_validator(mode="after")
    def _validation_falls_on_log_rows(self) -> "Pretrain":
        every = self.validation_every
        if every is not None and every % self.log_every:
            raise ValueError(f"validation.every {every} is no multiple of log_every {self.log_every}")
        return self

    @property
    def validation_every(self) -> int | None:
        """Steps between two measurements of the held-out loss; None without one."""
        return None if self.validation is None else self.validation.every or self.checkpoint_every

    def for_phase(self, phase: Phase) -> "Pretrain":
        """Return this configuration with the values of a later phase."""
        rate = phase.learning_rate or self.optimizer.learning_rate
        optimizer = self.optimizer.model_copy(update={"learning_rate": rate})
        changes = {"steps": phase.steps, "batch_size": phase.batch_size, "mask": phase.mask or self.mask}
        changes |= {"weights": phase.weights or self.weights}
        changes |= {"caption_shares": phase.caption_shares or self.caption_shares}
        return self.model_copy(update=changes | {"optimizer": optimizer})
