"""Why a caption is not taken: fixed phrases that are counted, and particulars that tell of the one case."""

from enum import StrEnum


class Reason(StrEnum):
    """The vocabulary of `dropped.parquet`."""

    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
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


class Rejected(Exception):
    """One caption that cannot be taken while others can."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail = reason, detail
