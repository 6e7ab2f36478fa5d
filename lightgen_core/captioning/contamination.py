"""Evaluation prompts kept out of the training captions: equal, in part, or in other words; and the proof that they are.

A shared run of words is the usual measure (Brown et al. 2020, appendix C); prompts of text-to-image benchmarks are
mostly shorter than its length, so of a shorter prompt all words in a row count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightgen_core.captioning.config import Decontamination
from lightgen_core.captioning.embedding import Embed
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption, Fault
from lightgen_core.dedup.minhash import normalize_words
from lightgen_core.dedup.search import nearest

Kind = Literal["exact", "n-gram", "embedding"]


@dataclass(frozen=True)
class Match:
    """How a caption gives a prompt away; the similarity is a cosine, or 1."""

    kind: Kind
    prompt: str
    similarity: float


class EvaluationPrompts:
    """Prompts that no training caption may give away.

    Args:
        prompts: as the benchmark says them; at least one.
        rules: lengths of the runs of words looked for; None: only whole captions are compared.
        embed: makes vectors of captions; None: no comparison by meaning.
        threshold: cosine from which a caption means what a prompt means.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        rules: Decontamination | None = None,
        embed: Embed | None = None,
        threshold: float = 1.0,
    ) -> None:
        self.prompts = list(dict.fromkeys(prompts))
        self._whole: dict[tuple[str, ...], str] = {}
        self._runs: dict[tuple[str, ...], str] = {}
        for prompt in self.prompts:
            words = tuple(normalize_words(prompt))
            self._whole.setdefault(words, prompt)
            if rules and len(words) >= rules.least_words:
                length = min(len(words), rules.ngram)
                for at in range(len(words) - length + 1):
                    self._runs.setdefault(words[at : at + length], prompt)
        self._lengths = sorted({len(run) for run in self._runs}, reverse=True)
        self._rules, self._embed, self._threshold = rules, embed, threshold
        self._vectors = embed(self.prompts) if embed else None

    def matches(self, captions: Sequence[str]) -> list[Match | None]:
        """Say of each caption which prompt it gives away, and how: the plainest way first."""
        found = [self._in_words(caption) for caption in captions]
        if self._embed is None or self._vectors is None:
            return found
        left = [row for row, match in enumerate(found) if match is None]
        for row, (prompt, cosine) in zip(left, self._nearest([captions[row] for row in left]), strict=True):
            if cosine >= self._threshold:
                found[row] = Match("embedding", prompt, cosine)
        return found

    def screen(self, captions: Sequence[Caption]) -> list[Fault | None]:
        """The matches as faults."""
        return [
            Fault(Reason.EVALUATION_PROMPT, f"{match.kind}: {match.prompt}", similarity=match.similarity)
            if match
            else None
            for match in self.matches([caption.text for caption in captions])
        ]

    def proof(self, captions: Sequence[str]) -> dict[str, Any]:
        """Compare what was chosen with every prompt once more: how much was checked, how, and what is left."""
        in_words = [match for caption in captions if (match := self._in_words(caption))]
        proof: dict[str, Any] = {
            "prompts": len(self.prompts),
            "captions": len(captions),
            "exact": sum(match.kind == "exact" for match in in_words),
        }
        if self._rules:
            proof |= {
                "n-gram": sum(match.kind == "n-gram" for match in in_words),
                "words_in_a_row": self._rules.ngram,
                "prompts_compared_whole_only": sum(len(run) < self._rules.least_words for run in self._whole),
            }
        if self._embed and captions:
            found = self._nearest(captions)
            row = max(range(len(captions)), key=lambda place: found[place][1])
            proof |= {
                "embedding": sum(cosine >= self._threshold for _, cosine in found),
                "threshold": self._threshold,
                "nearest": {"similarity": found[row][1], "caption": captions[row], "prompt": found[row][0]},
            }
        return proof

    def _in_words(self, caption: str) -> Match | None:
        words = tuple(normalize_words(caption))
        if words in self._whole:
            return Match("exact", self._whole[words], 1.0)
        for length in self._lengths:
            for at in range(len(words) - length + 1):
                if (prompt := self._runs.get(words[at : at + length])) is not None:
                    return Match("n-gram", prompt, 1.0)
        return None

    def _nearest(self, captions: Sequence[str]) -> list[tuple[str, float]]:
        """The most similar prompt of each caption, and the cosine."""
        assert self._embed is not None and self._vectors is not None
        if not captions:
            return []
        rows, cosines = nearest(self._embed(captions), self._vectors)
        return [(self.prompts[row], cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)]
