"""A sample of a set, what can be wrong with it, and how its caption is found among the files that share its key."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lightgen_core.rejected import Reason, Rejected

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
"""Suffixes taken for a picture; its bytes decide later whether it is one."""
CAPTIONS = ("json", "txt")
"""Suffixes taken for a caption, the preferred one first."""
CAPTION_FILE_BYTES = 1 << 20
"""Largest caption file. Image sets keep captions and figures in it, some kilobytes."""
CAPTION_CHARACTERS = 10_000
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class ImageSetError(ValueError):
    """The path holds no image set of the requested format."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies: a file of the set, and the bytes in it; of a Parquet file, the row, and 1."""

    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A caption and a picture that nobody has read yet. The key is unique in its set."""

    key: str
    caption: str
    place: Place


@dataclass(frozen=True, slots=True)
class Fault:
    """Something of a set that cannot be taken."""

    key: str
    why: Rejected
    caption: str | None = None


def safe_name(raw: bytes) -> str:
    """Return the name of a member as a relative path.

    Raises:
        Rejected: not UTF-8; absolute, with "..", a drive, a backslash or a control character.
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NAME_ENCODING, ascii(raw[:200])) from error
    path = PurePosixPath(name)
    drive = re.match(r"[A-Za-z]:", name)
    if path.is_absolute() or ".." in path.parts or drive or re.search(r"[\x00-\x1f\x7f\\]", name) or not path.parts:
        raise Rejected(Reason.UNSAFE_PATH, ascii(name[:200]))
    return str(path)


def key_and_suffix(name: str) -> tuple[str, str]:
    """Split a member's name: what has the same key belongs to one sample."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")), path.suffix[1:].lower()


def caption_of(data: bytes, suffix: str, fields: Sequence[str]) -> str:
    """Return the caption that a file holds, runs of white space made one space.

    Args:
        data: content of the file.
        suffix: "txt": all of it is the caption; "json": an object that has it in the first of `fields` it knows.

    Raises:
        Rejected: it holds none.
    """
    if len(data) > CAPTION_FILE_BYTES:
        raise Rejected(Reason.CAPTION_TOO_LONG, f"{len(data)} bytes; at most {CAPTION_FILE_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(Reason.CAPTION_ENCODING, f"byte {error.start} of {len(data)}") from error
    return clean_caption(_field_of(text, fields) if suffix == "json" else text)


def _field_of(text: str, fields: Sequence[str]) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.CAPTION_JSON, str(error)) from error
    if not isinstance(found, dict):
        raise Rejected(Reason.CAPTION_FIELD, f"found JSON {type(found).__name__}, expected an object")
    for name in fields:
        if name in found:
            return found[name]
    raise Rejected(Reason.CAPTION_FIELD, f"expected one of {', '.join(fields)}; found {ascii(sorted(found))[:200]}")


def clean_caption(text: Any) -> str:
    """Return a caption with its white space evened out.

    Raises:
        Rejected: no text, empty, longer than a caption is, or not to be written as UTF-8 (lone surrogates).
    """
    if not isinstance(text, str):
        raise Rejected(Reason.CAPTION_FIELD, f"found {type(text).__name__}, expected text")
    caption = even_space(text)
    if not caption:
        raise Rejected(Reason.CAPTION_EMPTY, f"{len(text)} characters of white space")
    if len(caption) > CAPTION_CHARACTERS:
        raise Rejected(Reason.CAPTION_TOO_LONG, f"{len(caption)} characters; at most {CAPTION_CHARACTERS}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise Rejected(Reason.CAPTION_ENCODING, f"character {error.start} stands alone") from error
    return caption


def even_space(text: str) -> str:
    """Return a text with each run of white space and control characters made one space."""
    return _BLANK.sub(" ", text).strip()


@dataclass
class Parts:
    """The files of one key, as they are met: they make a sample or a fault."""

    key: str
    picture: Place | None = None
    captions: dict[str, str | Rejected] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def reject(self, name: str, reason: Reason, detail: str) -> None:
        """Note that one of the files cannot be taken."""
        self.faults.append(Fault(name, Rejected(reason, detail)))

    def add_caption(self, data: bytes, suffix: str, fields: Sequence[str]) -> None:
        """Take a caption file; what is wrong with it counts only where no other caption file is right."""
        try:
            self.captions[suffix] = caption_of(data, suffix, fields)
        except Rejected as why:
            self.captions[suffix] = why.kept()

    @property
    def complete(self) -> bool:
        """Whether it has a picture and a caption file."""
        return self.picture is not None and bool(self.captions)

    def result(self) -> Iterator[Sample | Fault]:
        """Yield the sample, or why there is none, and the fault of every file that was too many."""
        yield from self.faults
        found = [self.captions[suffix] for suffix in CAPTIONS if suffix in self.captions]
        good = next((each for each in found if isinstance(each, str)), None)
        if self.picture is None:
            if found:
                yield Fault(self.key, Rejected(Reason.NO_PICTURE, "a caption without a picture of its key"), good)
            elif self.others:
                yield Fault(self.key, Rejected(Reason.UNKNOWN_FILE, ascii(self.others)[:200]))
        elif good is not None:
            yield Sample(self.key, good, self.picture)
        else:
            why = next((each for each in found if isinstance(each, Rejected)), None)
            yield Fault(self.key, why or Rejected(Reason.NO_CAPTION, "a picture without a caption of its key"))
