"""What is not taken, and why: one picture, caption or file. The vocabulary is that of the pictures' quarantine."""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why there is no picture; counted in manifests, so each is a fixed phrase. Particulars go into the detail."""

    UNSAFE_PATH = "unsafe path"
    NAME_ENCODING = "name is not UTF-8"
    SPECIAL_FILE = "link, device or other special file"
    DUPLICATE_KEY = "duplicate key"
    ARCHIVE_CUT = "archive cut short"
    ARCHIVE_DAMAGED = "damaged archive"
    ARCHIVE_BOMB = "archive expands too much"
    NO_CAPTION = "no caption"
    NO_PICTURE = "no picture"
    UNKNOWN_FILE = "neither picture nor caption"
    CAPTION_EMPTY = "empty caption"
    CAPTION_TOO_LONG = "caption too long"
    CAPTION_ENCODING = "caption is not UTF-8"
    CAPTION_JSON = "caption file is not JSON"
    CAPTION_FIELD = "caption field missing or no text"
    PICTURE_TOO_LARGE = "picture file too large"
    TOO_MANY_PIXELS = "too many pixels"
    NOT_A_PICTURE = "not a PNG, JPEG or WebP picture"
    PICTURE_CUT = "picture cut short"
    PICTURE_DAMAGED = "damaged picture"
    NOT_8_BIT = "not an 8-bit picture"
    OTHER_SIZE = "not of the set's size"
    UNSAFE_CONTENT = "flagged by the safety checker"
    NOT_A_NUMBER = "values that are not numbers"
    OUT_OF_MEMORY = "out of memory"
    PROMPT_FAILED = "the teacher failed on the prompt"
    REFUSED = "the endpoint refused the prompt"
    NO_ANSWER = "the endpoint gave no picture"


class Rejected(Exception):
    """One item that cannot be taken while others can: raised where it is found, kept as a row of a table."""

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail = reason, detail

    def kept(self) -> Self:
        """Return itself without the frames it was raised in, which hold on to pictures and files."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self
