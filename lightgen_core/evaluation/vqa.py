"""Benchmarks that ask a vision-language model about each image: DPG-Bench and GenEval 2. Free of torch.

Their prompts and questions come from their authors' files. A prompt's questions are its meaning, as JSON.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightgen_core.captioning.parse import Answer
from lightgen_core.dedup.minhash import normalize_words
from lightgen_core.evaluation.prompt import Prompt, PromptFileError, numbered_lines
from lightgen_core.intervals import bootstrap_mean
from lightgen_core.vlm.vlm import FirstTokens

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DPG_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
_LEAST = 1e-12  # of a soft score, so that a geometric mean exists


@dataclass(frozen=True)
class Question:
    """A question about an image, the right answer, what it tests, and the questions it presupposes (indices)."""

    text: str
    answer: str = "yes"
    skill: str = ""
    parents: tuple[int, ...] = ()


def questions_of(prompt: Prompt) -> list[Question]:
    """Return the questions of a prompt."""
    return [Question(**row | {"parents": tuple(row["parents"])}) for row in json.loads(prompt.meaning)]


def _prompt(text: str, category: str, questions: Sequence[Question]) -> Prompt:
    return Prompt(text, category, json.dumps([asdict(question) for question in questions]))


def read_dpg(path: Path) -> list[Prompt]:
    """Return the prompts of DPG-Bench (Hu et al. 2024) from its authors' `dpg_bench.csv`.

    A question's skill is the first word of its tuple: entity, attribute, relation, global, other.

    Raises:
        PromptFileError: no such file, or not of that form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(f"questions cannot be read from {path}: {error}") from error
    if missing := [name for name in _DPG_COLUMNS if name not in columns]:
        raise PromptFileError(f"{path} has no column {', '.join(missing)}; expected DPG-Bench's dpg_bench.csv")
    items: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        items.setdefault(row["item_id"], []).append(row)
    if not items:
        raise PromptFileError(f"{path} holds no question")
    return [_dpg_prompt(path, name, rows) for name, rows in items.items()]


def _dpg_prompt(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> Prompt:
    try:
        places = {int(row["proposition_id"]): place for place, row in enumerate(rows)}
        questions = [
            Question(
                row["question_natural_language"],
                skill=row["tuple"].partition("(")[0].partition("-")[0].strip(),
                parents=tuple(places[int(parent)] for parent in row["dependency"].split(",") if int(parent)),
            )
            for row in rows
        ]
    except (ValueError, KeyError) as error:
        raise PromptFileError(f"{path}, item {name}: {error} is no proposition_id of it; expected numbers") from error
    return _prompt(rows[0]["text"].strip(), "dpg", questions)


def read_geneval2(path: Path) -> list[Prompt]:
    """Return the prompts of GenEval 2 (Kamath et al. 2025) from its authors' `geneval2_data.jsonl`.

    A prompt's category is its number of atoms, a question's skill the one of its place in `skills`.

    Raises:
        PromptFileError: no such file, or a line that is not of that form.
    """
    prompts = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
            pairs = zip(row["vqa_list"], row["skills"], strict=True)
            questions = [Question(str(text), str(answer), str(skill)) for (text, answer), skill in pairs]
            prompts.append(_prompt(str(row["prompt"]), f"{int(row['atom_count'])} atoms", questions))
        except (ValueError, KeyError, TypeError) as error:
            raise PromptFileError(
                f"{path}, line {number}: {type(error).__name__} {error}; expected GenEval 2's geneval2_data.jsonl with "
                "prompt, atom_count, vqa_list and skills"
            ) from error
    if not prompts:
        raise PromptFileError(f"{path} holds no prompt")
    return prompts


def asked(question: Question) -> str:
    """Return what a model is asked."""
    kind = "yes or no" if question.answer.casefold() in ("yes", "no") else "one word"
    return f"{question.text}\nAnswer with {kind} alone."


def is_right(answer: Answer, question: Question) -> bool | None:
    """Return whether an answer begins with the right word; None for no answer, or one that is neither yes nor no."""
    words = normalize_words(answer.text)
    if answer.error or not words:
        return None
    first, wanted = _canonical(words[0]), _canonical(question.answer)
    if wanted in ("yes", "no") and first not in ("yes", "no"):
        return None
    return first == wanted


def answer_probability(tokens: FirstTokens, wanted: str) -> float:
    """Return the probability of an answer among the likeliest first tokens.

    A token counts if it is the whole answer, in any case, or the same number as a digit.
    """
    right = [logprob for token, logprob in tokens if _canonical(token) == _canonical(wanted)]
    return min(1.0, float(np.exp(right).sum()))


def _canonical(word: str) -> str:
    """Return a word without case, space and punctuation, numbers up to ten as digits."""
    plain = "".join(normalize_words(word))
    return str(_NUMBERS.index(plain)) if plain in _NUMBERS else plain


def with_dependencies(answers: Sequence[bool], questions: Sequence[Question]) -> list[bool]:
    """Return the answers with those set to wrong that presuppose something wrong, at any distance (DPG's rule)."""
    right = list(answers)
    for _ in questions:  # as many passes as the longest chain, whatever the order
        right = [own and all(right[parent] for parent in q.parents) for own, q in zip(right, questions, strict=True)]
    return right


def dpg_score(answers: Sequence[bool], questions: Sequence[Question]) -> float:
    """Return DPG-Bench's score of an image: the share of questions that count."""
    return float(np.mean(with_dependencies(answers, questions)))


def geometric_mean(scores: Sequence[float]) -> float:
    """Return GenEval 2's score of an image, Soft-TIFA GM."""
    return float(np.exp(np.mean(np.log(np.maximum(scores, _LEAST)))))


def vqa_scores(
    prompts: Sequence[Prompt],
    verdicts: Sequence[Sequence[Mapping[str, Any]]],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the mean `score` of images as `overall`, by the prompts' category, and of answers by their skill.

    Args:
        verdicts: (prompts, images) with `score` and `answers`, one for each question, dependencies left aside.
    """
    groups: dict[str, tuple[list[float], list[str]]] = {"overall": ([], [])}

    def add(name: str, value: float, prompt: Prompt) -> None:
        values, captions = groups.setdefault(name, ([], []))
        values.append(float(value))
        captions.append(prompt.caption)

    several = len({prompt.category for prompt in prompts}) > 1
    for prompt, row in zip(prompts, verdicts, strict=True):
        for verdict in row:
            add("overall", verdict["score"], prompt)
            if several:
                add(prompt.category, verdict["score"], prompt)
            questions = questions_of(prompt)
            for question, answer in zip(questions, verdict["answers"] or [0] * len(questions), strict=True):
                add(question.skill or "questions", answer, prompt)
    return {
        name: bootstrap_mean(values, captions, seed, resamples=resamples).as_dict()
        for name, (values, captions) in groups.items()
    }
