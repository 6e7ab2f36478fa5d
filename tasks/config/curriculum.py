"""Shares of images and captions in training: weights of sources, shares of captions, and phases."""

from pydantic import Field, field_validator, model_validator

from lightgen_core.config import MaskConfig, Positive, Section


class SourceWeights(Section):
    """Weight of a source in training: images of weight 2 are seen twice as often as one of weight 1, of 0 never.

    An image's weight is the product of its teacher's and its caption's.
    """

    teachers: dict[str, float] = Field({}, description="by name of synthesis.teachers; 1 where a name is left out")
    captions: dict[str, float] = Field({}, description="by name of captions.sources; 1 where a name is left out")

    @field_validator("teachers", "captions")
    @classmethod
    def _weights_are_not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} has weight {weight:g}; expected 0 or more")
        return weights

    def columns(self) -> dict[str, dict[str, float]]:
        """Return the weights by column of the token files."""
        named = {"teacher": self.teachers, "caption_source": self.captions}
        return {column: weights for column, weights in named.items() if weights}


class CaptionShares(Section):
    """Shares of an image's captions: each time it comes with one, at random, by shares of their sum."""

    original: float = Field(0.0, ge=0, description="the caption that the image was made from or found with")
    short: float = Field(0.0, ge=0, description="the short caption of synthesis.recaption")
    long: float = Field(0.0, ge=0, description="the long caption of synthesis.recaption")

    @model_validator(mode="after")
    def _one_caption_has_a_share(self) -> "CaptionShares":
        if not self.original + self.short + self.long:
            raise ValueError("original, short and long are all 0; give one of them a share")
        return self

    def columns(self) -> dict[str, float]:
        """Return the shares by column of the token files."""
        shares = {"caption_id": self.original, "short_id": self.short, "long_id": self.long}
        return {column: share for column, share in shares.items() if share}


class Phase(Section):
    """A later phase of pre-training: on larger images, from the weights of the phase before."""

    size: Positive = Field(description="side of its images, px; one of tokens.sizes")
    steps: Positive = Field(description="optimizer updates")
    batch_size: Positive = Field(description="images of one update")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; none: as in the first phase")
    mask: MaskConfig | None = Field(None, description="how many tokens are masked; none: as in the first phase")
    weights: SourceWeights | None = Field(
        None,
        description="how often it sees which source; none: as in the first phase",
        exclude_if=lambda weights: weights is None,  # keys of recipes without stay, here and below
    )
    caption_shares: CaptionShares | None = Field(
        None,
        description="which caption an image comes with; none: as in the first phase",
        exclude_if=lambda shares: shares is None,
    )
