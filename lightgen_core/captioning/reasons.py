"""Reasons for which a caption is dropped."""

from enum import StrEnum


class Reason(StrEnum):
    """Fixed phrases of `dropped.parquet`, counted in the manifest."""

    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
    BAD_ROW = "row that cannot be read"
    NO_TEXT = "field missing or no text"
    EMPTY = "empty"
    TOO_LONG = "too long"
    TOO_SHORT = "too short"
    DAMAGED_FILE = "damaged file"
    NO_ANSWER = "no answer"
    CUT_OFF = "cut off"
    REFUSAL = "refusal"
    ECHO = "echo of the instruction"
    UNCHANGED = "seed caption unchanged"
    EVALUATION_PROMPT = "evaluation prompt"
    REPEATED_WORDS = "repeated words"
    REPEATED_MEANING = "repeated meaning"
