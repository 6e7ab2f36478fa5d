"""The judges of T2I-CompBench's parts: attributes, relations of space, actions."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flows.commands.evaluate_asked_model import AskedModel
from flows.commands.evaluate_options import EvaluationOptions
from flows.errors import UserError
from lightgen_core.captioning.parse import Answer
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.evaluation.compbench import Part, attribute_score, placement_in, spatial_score
from lightgen_core.evaluation.noun_phrases import ParserMissing, PhraseParser
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.evaluation.vqa import answer_probability
from lightgen_core.images.codec import encode_png
from tasks.context.digests import weights_digest

if TYPE_CHECKING:
    import torch

BLIP = "blip:"
"""Beginning of the name of a judge that is a BLIP, by folder or hub id."""
CLIP = "ViT-B-32/openai"
"""The CLIP of the paper's CLIPScore."""

PartJudge = Callable[[np.ndarray, Prompt], float]
"""An image uint8 (height, width, 3) and its prompt to a score."""


class _Part(Protocol):
    """A part's judge before it is loaded; opening one loads no torch."""

    name: str

    def identity(self) -> Mapping[str, Any]:
        """Return what decides its verdicts, as JSON."""

    def load(self, device: "torch.device") -> PartJudge:
        """Load it. Raises UserError."""


class JudgeParts:
    """The judges that a category needs, and the parser that they share."""

    def __init__(self, wanted: Sequence[Part], category: str, options: EvaluationOptions) -> None:
        """Look for them. Raises UserError for one that is not named, or not there."""
        self._parser = None if category == "non_spatial" else open_parser(options.parser)
        opened: Mapping[Part, Callable[..., _Part]] = {
            "attributes": _Attributes,
            "spatial": _Spatial,
            "action": _Action,
        }
        self._parts: dict[Part, _Part] = {part: opened[part](category, options, self._parser) for part in wanted}

    def names(self) -> list[str]:
        """Return the judges in words."""
        return [part.name for part in self._parts.values()]

    def identity(self) -> dict[str, Any]:
        """Return the models of each part, and the parser."""
        parser = {"parser": self._parser.name} if self._parser else {}
        return parser | {name: dict(part.identity()) for name, part in self._parts.items()}

    def load(self, device: "torch.device") -> dict[Part, PartJudge]:
        """Load them. Raises UserError."""
        return {name: part.load(device) for name, part in self._parts.items()}


class _Attributes:
    """Presence of each noun phrase: the product of the probabilities of yes."""

    def __init__(self, category: str, options: EvaluationOptions, parser: PhraseParser) -> None:
        if options.judge is None:
            raise UserError(
                f"t2i-compbench needs --judge for {category}: blip:MODEL, a BlipForQuestionAnswering of transformers "
                "such as blip:Salesforce/blip-vqa-capfilt-large, the paper's; or, for other numbers than the paper's, "
                "transformers:MODEL or the name of a model behind LIGHTGEN_VLM_URL"
            )
        self._parser, self._given = parser, options.judge
        self._blip = options.judge.removeprefix(BLIP) if options.judge.startswith(BLIP) else None
        self._asked = None if self._blip else AskedModel(options.judge)
        self.name = f"BLIP-VQA by {self._blip}" if self._blip else f"yes of {options.judge}, not BLIP-VQA"

    def identity(self) -> Mapping[str, Any]:
        return self._asked.identity() if self._asked else _weights(f"--judge {self._given}", str(self._blip))

    def load(self, device: "torch.device") -> PartJudge:
        ask = self._ask_blip(device) if self._blip else self._ask_vlm(device)

        def judge(image: np.ndarray, prompt: Prompt) -> float:
            phrases = [phrase.text for phrase in self._parser.phrases(prompt.caption)]
            if not phrases:
                raise UserError(
                    f"{self._parser.name} finds no noun phrase in {prompt.caption!r}; give another --parser"
                )
            return attribute_score(ask(image, phrases))

        return judge

    def _ask_blip(self, device: "torch.device") -> Callable[[np.ndarray, Sequence[str]], list[float]]:
        from lightgen_core.vlm.blip import BlipVqa

        try:
            blip = BlipVqa.load(str(self._blip), device=device)
        except (OSError, ValueError) as error:
            raise UserError(f"--judge {self._given}: {error}") from error
        return lambda image, phrases: blip.yes(image, [f"{phrase}?" for phrase in phrases])

    def _ask_vlm(self, device: "torch.device") -> Callable[[np.ndarray, Sequence[str]], list[float]]:
        assert self._asked is not None
        vlm = self._asked.open(device)

        def ask(image: np.ndarray, phrases: Sequence[str]) -> list[float]:
            texts = [f"Does this image show {phrase}?\nAnswer with yes or no alone." for phrase in phrases]
            answers = vlm.first_tokens([encode_png(image)] * len(texts), texts)
            return [self._yes(answer, phrase) for answer, phrase in zip(answers, phrases, strict=True)]

        return ask

    def _yes(self, answer: Any, phrase: str) -> float:
        """Return P(yes) / (P(yes) + P(no)). Raises UserError where the answer is neither."""
        if isinstance(answer, Answer):
            raise UserError(f"{self._given} gave no answer about {phrase!r}: {answer.error}")
        yes, no = answer_probability(answer, "yes"), answer_probability(answer, "no")
        if yes + no == 0:
            raise UserError(
                f"{self._given} answers neither yes nor no about {phrase!r}: its likeliest first tokens are "
                f"{[token for token, _ in answer[:5]]}; take a model that follows the instruction"
            )
        return yes / (yes + no)


class _Spatial:
    """The relation of two objects, from a detector's boxes."""

    def __init__(self, category: str, options: EvaluationOptions, parser: PhraseParser) -> None:
        if options.detector is None:
            raise UserError(
                f"T2I-CompBench places {category} prompts' objects with UniDet, whose code needs detectron2 and is not "
                "kept. --detector MODEL takes an OWLv2 or OWL-ViT of transformers in its place, such as "
                "google/owlv2-base-patch16-ensemble, with the paper's rule on its boxes: not the paper's numbers. "
                "--benchmark t2i-compbench-mllm needs no detector"
            )
        self._parser, self._model, self._category = parser, options.detector, category
        self.name = f"boxes of {options.detector}, not UniDet"

    def identity(self) -> Mapping[str, Any]:
        return _weights(f"--detector {self._model}", self._model)

    def load(self, device: "torch.device") -> PartJudge:
        from lightgen_core.evaluation.open_detector import OpenDetector

        try:
            detector = OpenDetector.load(self._model, device=device)
        except (OSError, ValueError) as error:
            raise UserError(f"--detector {self._model}: {error}") from error

        def judge(image: np.ndarray, prompt: Prompt) -> float:
            placement = placement_in(prompt.caption)
            if placement is None:  # of complex prompts whose relation is another
                return 0.0
            complex_one = self._category == "complex"
            parser = self._parser
            pair = parser.nouns_around(prompt.caption, placement) if complex_one else parser.outer_nouns(prompt.caption)
            found = detector.find(image, [noun for noun in pair if noun]) if any(pair) else {}
            return spatial_score(placement.relation, found.get(pair.first or ""), found.get(pair.second or ""))

        return judge


class _Action:
    """The cosine of image and prompt in CLIP's space; of complex prompts without their adjectives."""

    def __init__(self, category: str, options: EvaluationOptions, parser: PhraseParser | None) -> None:
        self._parser, self._clip = parser if category == "complex" else None, options.clip or CLIP
        self.name = f"CLIPScore by {self._clip}" + ("" if self._clip == CLIP else f", not {CLIP}")

    def identity(self) -> Mapping[str, Any]:
        return _weights(f"--clip {self._clip}", self._clip)

    def load(self, device: "torch.device") -> PartJudge:
        from lightgen_core.encoders.clip import Clip

        try:
            clip = Clip.load(self._clip, device=device)
        except (OSError, ValueError, RuntimeError) as error:  # what loaders raise for weights that are not there
            raise UserError(f"--clip {self._clip}: {str(error).strip().splitlines()[0]}") from error

        def judge(image: np.ndarray, prompt: Prompt) -> float:
            text = self._parser.without_adjectives(prompt.caption) if self._parser else prompt.caption
            return float(clip.scores([image], [text])[0])

        return judge


def open_parser(name: str) -> PhraseParser:
    """Return the pipeline that splits prompts. Raises UserError."""
    try:
        return PhraseParser.load(name)
    except ParserMissing as error:
        raise UserError(str(error)) from error


def _weights(option: str, reference: str) -> dict[str, Any]:
    """Return a model's name and the digest of its files. Raises UserError for a path at which nothing is."""
    try:
        return {"model": reference, "weights": weights_digest(reference)}
    except ModelNotFound as error:
        raise UserError(f"{option}: {error}") from error
