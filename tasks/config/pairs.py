"""The recipe's section of preference pairs."""

from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.config import Fraction, Positive, Section
from lightgen_core.evaluation.scorer_config import ScorerConfig


class Pairs(Section):
    """The preference pairs."""

    count: Positive = Field(1000, description="captions for which pairs are sought; some give none")
    kind: Literal["teacher", "best_worst", "both", "ranked"] = Field(
        "both",
        description="the winner: the teacher's image (teacher), the student's best sample (best_worst), or the latter "
        "where it is good enough (both); the loser: the student's worst sample, if it is worse than the winner; "
        "ranked: any two of the student's samples of which one is better, with a detector right against wrong",
    )
    per_caption: Positive = Field(1, description="ranked: pairs of a caption at most, all different")
    scorer: Literal["detector", "clip", "none"] = Field(
        "detector",
        description="judge of good and bad; detector: the scene world's, right or wrong; clip: cosine of image and "
        "caption in the space of embeddings.model, for captions of any kind; none: the paper's pairs, in which the "
        "teacher's image wins over the student's only sample, unjudged",
    )
    margin: float = Field(
        0.02,
        gt=0,
        description="clip: cosine by which a winner leads; scorers: the same in their sum; captions without such a "
        "lead give none",
    )
    scorers: tuple[ScorerConfig, ...] = Field(
        (), description="several scorers instead of scorer, by their weighted sum, in which margin then counts"
    )
    held_out: ScorerConfig | None = Field(
        None, description="scorer that judges the samples too and has no say in the choice of pairs; none: no such one"
    )
    max_drop: Fraction = Field(
        0.3,
        description="largest relative fall, since the first round, of the score, the held-out score and the diversity "
        "within a prompt; beyond it dpo leaves the student as it is",
    )
    candidates: int = Field(6, ge=2, description="samples of the student for each caption; without a scorer one")
    shard_size: Positive = Field(200, description="captions of one shard")

    @model_validator(mode="after")
    def _samples_are_compared_by_a_scorer(self) -> "Pairs":
        if not self.all_scorers and self.kind != "teacher":
            raise ValueError(f"scorer none goes with kind teacher; kind {self.kind} compares samples: detector or clip")
        if self.per_caption > 1 and self.kind != "ranked":
            raise ValueError(
                f"per_caption={self.per_caption} goes with kind ranked; kind {self.kind} gives one pair a caption"
            )
        return self

    @property
    def samples(self) -> int:
        """Samples of the student for each caption."""
        return self.candidates if self.all_scorers else 1

    @property
    def all_scorers(self) -> tuple[ScorerConfig, ...]:
        """The scorers that choose the pairs; none for the paper's pairs."""
        if self.scorers or self.scorer == "none":
            return self.scorers
        return (ScorerConfig(kind=self.scorer),)

    @property
    def lead(self) -> float:
        """The lead in the sum of scores that a winner needs; of right over wrong it is 1."""
        return 1.0 if not self.scorers and self.scorer != "clip" else self.margin
