"""Rejection of one image, caption or file, with the quarantine's reasons."""

import re
from enum import StrEnum
from typing import Self

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Reason(StrEnum):
    """Reasons for a missing image: fixed phrases that manifests count."""

    UNSAFE_PATH = "unsafe path"
    NAME_ENCODING = "name is not UTF-8"
    SPECIAL_FILE = "link, device or other special file"
    HIDDEN = "hidden or system file"
    DUPLICATE_KEY = "duplicate key"
    ARCHIVE_TRUNCATED = "archive cut short"
    ARCHIVE_CORRUPT = "damaged archive"
    ARCHIVE_BOMB = "archive expands too much"
    NO_CAPTION = "no caption"
    NO_IMAGE = "no image"
    UNKNOWN_FILE = "neither image nor caption"
    CAPTION_EMPTY = "empty caption"
    CAPTION_TOO_LONG = "caption too long"
    CAPTION_ENCODING = "caption is not UTF-8"
    CAPTION_JSON = "caption file is not JSON"
    BAD_ROW = "row that cannot be read"
    CAPTION_FIELD = "caption field missing or no text"
    IMAGE_TOO_LARGE = "image file too large"
    TOO_MANY_PIXELS = "too many pixels"
    NOT_AN_IMAGE = "not a PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF image"
    IMAGE_TRUNCATED = "image cut short"
    IMAGE_CORRUPT = "damaged image"
    NOT_8_BIT = "not an 8-bit image"
    OTHER_SIZE = "not of the set's size"
    UNSAFE_CONTENT = "flagged by the safety checker"
    NOT_A_NUMBER = "values that are not numbers"
    OUT_OF_MEMORY = "out of memory"
    PROMPT_FAILED = "the teacher failed on the prompt"
    REFUSED = "the endpoint refused the prompt"
    NO_ANSWER = "the endpoint gave no image"


class Rejected(Exception):
    """One unusable item; it becomes a row of a table."""

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        detail = _ADDRESS.sub("", detail)  # of an object in a library's message: another one in each process
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail = reason, detail

    def without_frames(self) -> Self:
        """Return the error itself without traceback and causes, which hold images and files."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self
