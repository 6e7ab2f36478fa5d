"""The student's section of a recipe: a preset, what differs from it, and widths that follow from the components."""

from typing import Any

from pydantic import Field, model_validator

from lightgen_core.config import BlocksConfig, MarConfig, Positive
from lightgen_core.model.presets import PRESETS, PresetName

DEFAULT_PRESET: PresetName = "tiny"


class StudentConfig(BlocksConfig):
    """The student's blocks, from a preset and fields that differ; what they read follows from the tokens."""

    preset: PresetName = Field(
        DEFAULT_PRESET, description="size that all other fields of this section, and the head's, default to"
    )
    token_width: Positive | None = Field(
        None, description="values of one image token; none: latent channels of tokens.codec x tokens.patch squared"
    )
    text_width: Positive | None = Field(None, description="width of text states; none: that of tokens.text_encoder")
    position_grid: Positive | None = Field(
        None, description="side of the position table, tokens; none: that of the first phase's images"
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_gives_the_blocks(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"preset": values}
        if not isinstance(values, dict) or (name := values.get("preset", DEFAULT_PRESET)) not in PRESETS:
            return values
        return {**PRESETS[name].blocks, **values}

    def resolve(self, *, token_width: int, text_width: int, position_grid: int) -> MarConfig:
        """Return the student's configuration for tokens of these sizes.

        Raises:
            ValueError: the recipe sets another width than its components give.
        """
        widths = {"token_width": (token_width, "tokens.codec and tokens.patch give")}
        widths["text_width"] = (text_width, "tokens.text_encoder gives")
        for name, (width, origin) in widths.items():
            if (given := getattr(self, name)) not in (None, width):
                raise ValueError(
                    f"pretrain.model.{name} is {given}, but {origin} {width}: leave {name} out, and it follows"
                )
        fields = self.model_dump(exclude={"preset", "token_width", "text_width", "position_grid"})
        return MarConfig(
            **fields,
            token_width=token_width,
            text_width=text_width,
            position_grid=self.position_grid or position_grid,
        )
