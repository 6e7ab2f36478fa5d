"""Noun phrases and parts of speech of prompts, by spaCy."""

from importlib.util import find_spec
from typing import Any, NamedTuple

from lightgen_core.evaluation.compbench import MOST_PHRASES, Placement
from lightgen_core.evaluation.compbench_ratings import Phrase

PIPELINE = "en_core_web_sm"
"""The pipeline that T2I-CompBench's authors take."""
_PLACES = frozenset({"top", "the side", "the left", "the right"})
"""Noun phrases that name a place, which T2I-CompBench does not ask for."""
_NOUNS = ("NOUN", "PROPN")


class ParserMissing(ValueError):
    """SpaCy, or its pipeline, is not installed, or the pipeline finds no noun phrases."""


class NounPair(NamedTuple):
    """The nouns on both sides of a relation; None where there is none."""

    first: str | None
    second: str | None


class PhraseParser:
    """A pipeline of spaCy with tagger and parser."""

    def __init__(self, pipeline: Any) -> None:
        self._parse = pipeline
        self.name = f"{pipeline.meta['lang']}_{pipeline.meta['name']} {pipeline.meta['version']}"

    @classmethod
    def load(cls, name: str = PIPELINE) -> "PhraseParser":
        """Load an installed pipeline, or a folder of one. Raises ParserMissing."""
        if find_spec("spacy") is None:
            raise ParserMissing("prompts are split by spaCy, which is not installed; pip install 'lightgen[compbench]'")
        import spacy

        try:
            pipeline = spacy.load(name)
        except (OSError, ValueError) as error:
            raise ParserMissing(
                f"spaCy has no pipeline {name} here ({str(error).splitlines()[0]}); python -m spacy download "
                f"{PIPELINE}, or give another one, or its folder, by --parser"
            ) from error
        sample = pipeline("a red bus")
        if not (sample.has_annotation("DEP") and sample.has_annotation("POS")):
            raise ParserMissing(
                f"spaCy's pipeline {name} has {', '.join(pipeline.pipe_names) or 'no parts'}; expected one that tags "
                f"parts of speech and parses, such as {PIPELINE}"
            )
        return cls(pipeline)

    def phrases(self, caption: str) -> list[Phrase]:
        """Return the noun phrases of a caption but for places, eight at most, each with its last noun."""
        found = []
        for chunk in self._parse(caption).noun_chunks:
            if chunk.text not in _PLACES:
                nouns = [token.text for token in chunk if token.pos_ in _NOUNS]
                found.append(Phrase(chunk.text, nouns[-1] if nouns else chunk.root.text))
        return found[:MOST_PHRASES]

    def outer_nouns(self, caption: str) -> NounPair:
        """Return the first and the last noun of a caption."""
        nouns = [token.text for token in self._parse(caption) if token.pos_ == "NOUN"]
        return NounPair(nouns[0], nouns[-1]) if nouns else NounPair(None, None)

    def nouns_around(self, caption: str, placement: Placement) -> NounPair:
        """Return the last noun before a relation, and the first one behind it."""
        nouns = [token for token in self._parse(caption) if token.pos_ in _NOUNS]
        before = [token.text for token in nouns if token.idx < placement.start]
        behind = [token.text for token in nouns if token.idx >= placement.end]
        return NounPair(before[-1] if before else None, behind[0] if behind else None)

    def without_adjectives(self, caption: str) -> str:
        """Return a caption's words without adjectives."""
        return " ".join(token.text for token in self._parse(caption) if token.pos_ != "ADJ")
