"""The recipe: a section for each stage, and the checks between sections."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from lightgen_core.config import DpoConfig, SamplerConfig, Section
from lightgen_core.scene.config import World
from tasks.config.average import Average
from tasks.config.dedup import Dedup
from tasks.config.distil_head import DistilHead
from tasks.config.pairs import Pairs
from tasks.config.pretrain import Pretrain
from tasks.config.sections import Captions, Embeddings, Evaluation, Report, Synthesis, Tokens

GENERAL_COMPONENTS: dict[str, dict[str, Any]] = {
    "embeddings": {"model": "zoo:clip-general", "batch_size": 32},
    "tokens": {"codec": "zoo:autoencoder-general", "text_encoder": "zoo:minilm"},
}
"""Components of images and captions of any kind, which `lightgen[pictures]` installs; see `docs/zoo.md`."""


class Recipe(Section):
    """Everything that decides the artifacts of a run; `Settings` hold the rest."""

    renamed: ClassVar = {"scores_mean_nothing": "smoke_test"}

    name: str = Field(pattern=r"^[a-zA-Z0-9][\w.-]*$", description="name of the recipe, shown in the Prefect UI")
    purpose: str = Field("", description="one line for the report")
    smoke_test: bool = Field(False, description="true for recipes too small to learn; the report then says so")
    seed: int = Field(0, ge=0, lt=2**31, description="every draw of a run follows from it")
    training_seed: int | None = Field(
        None,
        ge=0,
        lt=2**31,
        description="seed of pre-training and preference tuning, where it is another than seed: one more training on "
        "the same captions, images, tokens and evaluation",
        exclude_if=lambda seed: seed is None,
    )
    world: World = Field(default_factory=World)
    captions: Captions = Field(default_factory=Captions)
    synthesis: Synthesis = Field(default_factory=Synthesis)
    embeddings: Embeddings = Field(default_factory=Embeddings)
    dedup: Dedup = Field(default_factory=Dedup)
    tokens: Tokens = Field(default_factory=Tokens)
    pretrain: Pretrain = Field(default_factory=Pretrain)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig, description="how pairs and evaluation sample")
    pairs: Pairs = Field(default_factory=Pairs)
    dpo: DpoConfig = Field(default_factory=DpoConfig)
    average: Average | None = Field(
        None,
        description="after several rounds of dpo, average the weights of their students; none, or one round: no such "
        "stage",
        exclude_if=lambda section: section is None,
    )
    distil_head: DistilHead | None = Field(
        None,
        description="after dpo, distil the full sampler into a student of few head evaluations; none: no such stage",
        exclude_if=lambda section: section is None,
    )
    evaluation: Evaluation = Field(default_factory=Evaluation)
    report: Report = Field(default_factory=Report)

    @model_validator(mode="before")
    @classmethod
    def _components_fit_teacher(cls, values: Any) -> Any:
        """Fill in the general components where the images are not the scene world's."""
        if not isinstance(values, dict) or not isinstance(synthesis := values.get("synthesis", {}), dict):
            return values
        listed = [each for each in synthesis.get("teachers") or () if isinstance(each, dict)]
        if all(each.get("teacher", "scene") == "scene" for each in (synthesis, *listed)):
            return values
        filled = {name: values.get(name, {}) for name in GENERAL_COMPONENTS}
        return values | {
            name: GENERAL_COMPONENTS[name] | section for name, section in filled.items() if isinstance(section, dict)
        }

    @model_validator(mode="before")
    @classmethod
    def _training_seed_differs(cls, values: Any) -> Any:
        """Leave a training seed out that equals the seed, so that one recipe is written in one way."""
        if isinstance(values, dict) and values.get("training_seed", -1) == values.get("seed", 0):
            return {name: value for name, value in values.items() if name != "training_seed"}
        return values

    @model_validator(mode="after")
    def _sampler_fits_objective(self) -> "Recipe":
        if self.sampler.head_sampler == "few_step":
            raise ValueError(
                "sampler.head_sampler is few_step, which is learned from the full sampler: give that one here, and "
                "switch on the section distil_head, whose student samples with few_step"
            )
        few_steps = self.distil_head and self.distil_head.head_steps
        if few_steps and few_steps > 1 and self.pretrain.head.objective == "ddpm":
            raise ValueError(
                f"distil_head.head_steps is {few_steps}, but pretrain.head.objective is ddpm, whose path from noise to "
                "token a few-step student does not share: set it to 1, or leave it out"
            )
        last = self.distil_head and self.distil_head.head_steps_last
        if self.distil_head and last and last > self.distil_head.head(self.pretrain.head).steps:
            raise ValueError(
                f"distil_head.head_steps_last {last} exceeds the {self.distil_head.head(self.pretrain.head).steps} "
                "evaluations that the few-step student learns (distil_head.head_steps); lower it"
            )
        if self.sampler.null_text_every > 1 and not self.pretrain.model.text_self_attention:
            raise ValueError(
                f"sampler.null_text_every is {self.sampler.null_text_every}, but without "
                "pretrain.model.text_self_attention text blocks run once for each token, so there is nothing to reuse; "
                "set it to 1"
            )
        flow_head, flow_sampler = self.pretrain.head.objective == "flow", self.sampler.head_sampler == "euler"
        if flow_head != flow_sampler:
            raise ValueError(
                f"sampler.head_sampler is {self.sampler.head_sampler} and pretrain.head.objective is "
                f"{self.pretrain.head.objective}: euler goes with flow, ddpm and ddim with ddpm and v"
            )
        return self

    @model_validator(mode="after")
    def _detector_fits_captions(self) -> "Recipe":
        foreign = [origin.source for origin in self.captions.origins if origin.source != "scene"]
        if not foreign:
            return self
        conflicts = []
        scorers = [*self.pairs.all_scorers, *([self.pairs.held_out] if self.pairs.held_out else [])]
        if any(scorer.kind == "detector" for scorer in scorers):
            conflicts.append("pairs has the scorer detector: set it to clip, or to none with pairs.kind=teacher")
        if self.evaluation.benchmark == "scene":
            conflicts.append("evaluation.benchmark is scene: set it to geneval, or to prompts, which nobody judges")
        if conflicts:
            raise ValueError(
                f"captions.source is {foreign[0]}, but the scene world's detector knows its own captions "
                f"only; {'; '.join(conflicts)}"
            )
        return self

    @model_validator(mode="after")
    def _teachers_know_their_captions(self) -> "Recipe":
        names = {source.name: source for source in self.captions.sources}
        for teacher in self.synthesis.teachers:
            if unknown := [name for name in teacher.captions if name not in names]:
                raise ValueError(
                    f"synthesis.teachers: {teacher.name} takes captions of {unknown[0]!r}; captions.sources are "
                    f"{', '.join(names) or 'not given'}"
                )
            taken = [names[name] for name in teacher.captions] or self.captions.origins
            if teacher.teacher == "scene" and (foreign := [each.source for each in taken if each.source != "scene"]):
                raise ValueError(
                    f"synthesis.teachers: {teacher.name} draws captions of the scene world only, and would get those "
                    f"of source {foreign[0]}: set its captions to the names of scene sources"
                )
        return self

    @model_validator(mode="after")
    def _weights_name_sources(self) -> "Recipe":
        known = {
            "teachers": [each.name for each in self.synthesis.teachers],
            "captions": [each.name for each in self.captions.sources],
        }
        lists = {"teachers": "synthesis.teachers", "captions": "captions.sources"}
        for _, config in self.phases:
            for field, names in known.items():
                given = getattr(config.weights, field) if config.weights else {}
                if unknown := [name for name in given if name not in names]:
                    raise ValueError(
                        f"pretrain.weights.{field} names {unknown[0]!r}; {lists[field]} are "
                        f"{', '.join(names) or 'not given'}"
                    )
        return self

    @model_validator(mode="after")
    def _shares_are_of_written_captions(self) -> "Recipe":
        for _, config in self.phases:
            shares = config.caption_shares
            if shares is not None and (shares.short or shares.long) and self.synthesis.recaption is None:
                raise ValueError(
                    "pretrain.caption_shares asks for short or long captions, and nothing writes them: give "
                    "synthesis.recaption, with model, or leave the shares out"
                )
        return self

    @model_validator(mode="after")
    def _alignment_has_features(self) -> "Recipe":
        if self.pretrain.repa is not None and self.tokens.features is None:
            raise ValueError(
                "pretrain.repa aligns the student's states with features of a frozen image encoder, and tokens stores "
                "none: give tokens.features, with model, or leave repa out"
            )
        return self

    @model_validator(mode="after")
    def _phases_match_token_sizes(self) -> "Recipe":
        phases = [phase.size for phase in self.pretrain.phases]
        if missing := [size for size in phases if size not in self.tokens.sizes]:
            raise ValueError(
                f"pretrain.phases train on images of {missing[0]} px, tokens.sizes are {list(self.tokens.sizes)}: "
                "list there the size of the first phase and of every later one"
            )
        if phases != sorted(phases):
            raise ValueError(
                f"pretrain.phases: found sizes {phases}; expected each as large as the one before or larger"
            )
        return self

    @model_validator(mode="after")
    def _scored_checkpoint_is_kept(self) -> "Recipe":
        step, kept = self.evaluation.checkpoint, self.pretrain.keep_steps
        if step is not None and step not in kept:
            raise ValueError(
                f"evaluation.checkpoint is {step}, pretrain.keep_steps are {list(kept)}: name the step there too, so "
                "that training keeps its student"
            )
        return self

    @model_validator(mode="after")
    def _validation_leaves_images(self) -> "Recipe":
        validation = self.pretrain.validation
        if validation is not None and validation.rows >= self.synthesis.count:
            raise ValueError(
                f"pretrain.validation.rows is {validation.rows}, and synthesis.count {self.synthesis.count}: none of "
                "the images would be left to train on; lower rows, or make more images"
            )
        return self

    @model_validator(mode="after")
    def _padding_is_stored_if_attended(self) -> "Recipe":
        stored, read = self.tokens.pad_text, self.pretrain.model.attend_to_padding
        if stored != read:
            raise ValueError(
                f"tokens.pad_text is {stored} and pretrain.model.attend_to_padding {read}: a student that attends to "
                "padded tokens needs their states stored, and no other student may see them; set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _buckets_see_whole_images(self) -> "Recipe":
        if not self.tokens.buckets:
            return self
        buckets = ", ".join(self.tokens.buckets)
        for files in (each.files for each in self.synthesis.each if each.teacher == "files"):
            if files is None or files.size is None:
                continue
            raise ValueError(
                f"synthesis.files.size={files.size} crops every image to a square before tokens.buckets ({buckets}) "
                "see it: take the size out, since tokens resizes, or take the buckets out"
            )
        if self.pretrain.model.released_positions:
            raise ValueError(
                f"tokens.buckets are {buckets}, and pretrain.model.released_positions swaps rows and columns, which is "
                "right for squares alone; take one of them out"
            )
        return self

    @property
    def training(self) -> "Recipe":
        """This recipe as the training stages read it: its seed is that of training."""
        if self.training_seed is None:
            return self
        return self.model_copy(update={"seed": self.training_seed, "training_seed": None})

    @property
    def phases(self) -> tuple[tuple[int | None, Pretrain], ...]:
        """Phases of pre-training: image side in px (None if images keep their size), and configuration."""
        first = self.tokens.sizes[0] if self.tokens.sizes else None
        return (
            (first, self.pretrain),
            *((phase.size, self.pretrain.for_phase(phase)) for phase in self.pretrain.phases),
        )
