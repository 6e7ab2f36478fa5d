"""Keep evaluation prompts out of the training captions, and report how.

A caption is dropped that equals a prompt, shares an n-gram with it or has nearly its embedding. A shared n-gram is the
usual measure (Brown et al. 2020, appendix C). Most prompts of text-to-image benchmarks are shorter than n words; then
all words of the prompt in a row count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightgen_core.captioning.config import Decontamination
from lightgen_core.captioning.embedding import Embed
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption, Rejection
from lightgen_core.dedup.minhash import normalize_words
from lightgen_core.dedup.search import nearest

Method = Literal["exact", "n-gram", "embedding"]


@dataclass(frozen=True)
class Match:
    """A prompt that a caption contains (similarity 1) or paraphrases (cosine)."""

    method: Method
    prompt: str
    similarity: float


class EvaluationPrompts:
    """Evaluation prompts that no training caption may contain or paraphrase.

    Args:
        prompts: at least one.
        rules: lengths of the n-grams; only whole captions are compared if None.
        threshold: cosine from which a caption is a paraphrase.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        rules: Decontamination | None = None,
        embed: Embed | None = None,
        threshold: float = 1.0,
    ) -> None:
        self.prompts = list(dict.fromkeys(prompts))
        self._prompt_of_words: dict[tuple[str, ...], str] = {}
        self._prompt_of_ngram: dict[tuple[str, ...], str] = {}
        for prompt in self.prompts:
            words = _words(prompt)
            self._prompt_of_words.setdefault(words, prompt)
            if rules and len(words) >= rules.least_words:
                length = min(len(words), rules.ngram)
                for start in range(len(words) - length + 1):
                    self._prompt_of_ngram.setdefault(words[start : start + length], prompt)
        self._lengths = sorted({len(ngram) for ngram in self._prompt_of_ngram}, reverse=True)
        self._rules, self._embed, self._threshold = rules, embed, threshold
        self._vectors = embed(self.prompts) if embed else None

    def matches(self, captions: Sequence[str]) -> list[Match | None]:
        """Return the prompt that each caption contains or paraphrases, or None."""
        matches = [self._lexical_match(caption) for caption in captions]
        if self._embed is None or self._vectors is None:
            return matches
        rows = [row for row, match in enumerate(matches) if match is None]
        for row, (prompt, cosine) in zip(rows, self._nearest([captions[row] for row in rows]), strict=True):
            if cosine >= self._threshold:
                matches[row] = Match("embedding", prompt, cosine)
        return matches

    def filter(self, captions: Sequence[Caption]) -> list[Rejection | None]:
        """Return the matches as rejections (a `CaptionFilter`)."""
        return [
            Rejection(Reason.EVALUATION_PROMPT, f"{match.method}: {match.prompt}", similarity=match.similarity)
            if match
            else None
            for match in self.matches([caption.text for caption in captions])
        ]

    def contamination_report(self, captions: Sequence[str]) -> dict[str, Any]:
        """Compare the chosen captions with every prompt again and count the matches."""
        matches = [match for caption in captions if (match := self._lexical_match(caption))]
        report: dict[str, Any] = {
            "prompts": len(self.prompts),
            "captions": len(captions),
            "exact": sum(match.method == "exact" for match in matches),
        }
        if self._rules:
            report |= {
                "n-gram": sum(match.method == "n-gram" for match in matches),
                "words_in_a_row": self._rules.ngram,
                "prompts_compared_whole_only": sum(
                    len(words) < self._rules.least_words for words in self._prompt_of_words
                ),
            }
        if self._embed and captions:
            nearest_prompts = self._nearest(captions)
            row = max(range(len(captions)), key=lambda row: nearest_prompts[row][1])
            prompt, cosine = nearest_prompts[row]
            report |= {
                "embedding": sum(cosine >= self._threshold for _, cosine in nearest_prompts),
                "threshold": self._threshold,
                "nearest": {"similarity": cosine, "caption": captions[row], "prompt": prompt},
            }
        return report

    def _lexical_match(self, caption: str) -> Match | None:
        words = _words(caption)
        if words in self._prompt_of_words:
            return Match("exact", self._prompt_of_words[words], 1.0)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                if (prompt := self._prompt_of_ngram.get(words[start : start + length])) is not None:
                    return Match("n-gram", prompt, 1.0)
        return None

    def _nearest(self, captions: Sequence[str]) -> list[tuple[str, float]]:
        """Return the most similar prompt of each caption, and the cosine."""
        assert self._embed is not None and self._vectors is not None
        if not captions:
            return []
        rows, cosines = nearest(self._embed(captions), self._vectors)
        return [(self.prompts[row], cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)]


def _words(text: str) -> tuple[str, ...]:
    """Return a text's words; emoji count only where nothing else is said, so that adding one hides no prompt."""
    words = normalize_words(text)
    return tuple([word for word in words if re.search(r"\w", word)] or words)
