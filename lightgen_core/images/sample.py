"""Samples of an image set, assembled from the files that share a key."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lightgen_core.rejected import Reason, Rejected

FOREIGN_SUFFIXES = frozenset({"avif", "bmp", "gif", "heic", "heif", "jp2", "jxl", "tif", "tiff"})
"""Suffixes of images that count only without one of another suffix."""
IMAGE_SUFFIXES = FOREIGN_SUFFIXES | {"jpg", "jpeg", "jpe", "jfif", "png", "webp"}
"""Suffixes of images; the bytes decide later whether a file is one."""
CAPTION_SUFFIXES = ("json", "txt", "caption")
"""Suffixes of captions, the preferred one first."""
CAPTION_FIELDS = ("prompt", "caption", "text", "captions", "prompts", "texts", "description")
"""Usual names of captions in JSON and tables; of several the first with a usable caption counts."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files with captions of a folder's images, by file name; an image's own caption file is preferred."""
CAPTION_FILE_BYTES = 1 << 20
"""Size limit of a caption file; usual ones have some kilobytes."""
CAPTION_CHARACTERS = 10_000
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


class ImageSetError(ValueError):
    """The path holds no image set of the requested format."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Position of an image: file, start and length; in Parquet, the row and 1."""

    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A caption and an unread image; the key is unique in its set."""

    key: str
    caption: str
    byte_range: ByteRange


@dataclass(frozen=True, slots=True)
class BadSample:
    """A file or sample of a set that cannot be used."""

    key: str
    error: Rejected
    caption: str | None = None


def checked_member_name(raw: bytes) -> str:
    """Return a relative path; Rejected: not UTF-8, absolute, or with "..", a drive, backslash or control character."""
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
    """Split a member's name; files of the same key belong to one sample."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")), path.suffix[1:].lower()


def parse_caption_file(data: bytes, suffix: str, fields: Sequence[str]) -> str:
    """Return the caption in a file, whitespace normalized; Rejected if there is no valid one.

    suffix: "txt": all of it is the caption; "json": an object with the caption in the first usable one of `fields`.
    """
    if len(data) > CAPTION_FILE_BYTES:
        raise Rejected(Reason.CAPTION_TOO_LONG, f"{len(data)} bytes; at most {CAPTION_FILE_BYTES}")
    try:
        text = data.decode(codec_of(data))
    except UnicodeDecodeError as error:
        raise Rejected(Reason.CAPTION_ENCODING, f"byte {error.start} of {len(data)}") from error
    if "\0" in text:
        raise Rejected(Reason.CAPTION_ENCODING, "null characters, as in UTF-16 without a byte order mark")
    return first_caption(_fields_of(text, fields) if suffix == "json" else [text])


def codec_of(data: bytes) -> str:
    """Return UTF-16 if a text begins with that byte order mark, else UTF-8."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _fields_of(text: str, fields: Sequence[str]) -> list[Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.CAPTION_JSON, str(error)) from error
    if not isinstance(record, dict):
        raise Rejected(Reason.CAPTION_FIELD, f"found JSON {type(record).__name__}, expected an object")
    return record_captions(record, fields)


def record_captions(record: Mapping[str, Any], fields: Sequence[str]) -> list[Any]:
    """Return the values of the caption fields of a record. Raises Rejected if it has none of them."""
    if names := usual_names(record, fields):
        return [record[name] for name in names]
    raise Rejected(
        Reason.CAPTION_FIELD, f"expected one of {', '.join(fields)}; found {ascii(sorted(map(str, record)))[:200]}"
    )


def usual_names(columns: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """Return the columns of the wanted names in the wanted order; names in another case count where none is exact."""
    names = list(columns)
    if exact := [name for name in wanted if name in names]:
        return exact
    folded = {name.casefold(): name for name in reversed(names)}
    return [folded[name.casefold()] for name in wanted if name.casefold() in folded]


def first_caption(values: Iterable[Any]) -> str:
    """Return the first usable caption of some values, cleaned; Rejected as the first value is if there is none.

    Lists count after single values: of a list of captions the first usable one.
    """
    plain: list[Any] = []
    lists: list[Any] = []
    for value in values:
        lists.extend(value) if isinstance(value, list | tuple) and value else plain.append(value)
    errors: list[Rejected] = []
    for value in plain + lists:
        try:
            return clean_caption(value)
        except Rejected as error:
            errors.append(error)
    raise errors[0]


def clean_caption(text: Any) -> str:
    """Return a caption (str or UTF-8 bytes), whitespace normalized; Rejected: no text, empty, too long or encoding."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected(Reason.CAPTION_ENCODING, f"byte {error.start}") from error
    if not isinstance(text, str):
        raise Rejected(Reason.CAPTION_FIELD, f"found {type(text).__name__}, expected text")
    caption = normalize_whitespace(text)
    if not caption:
        raise Rejected(Reason.CAPTION_EMPTY, f"{len(text)} characters of white space")
    if len(caption) > CAPTION_CHARACTERS:
        raise Rejected(Reason.CAPTION_TOO_LONG, f"{len(caption)} characters; at most {CAPTION_CHARACTERS}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise Rejected(Reason.CAPTION_ENCODING, f"character {error.start} stands alone") from error
    return caption


def normalize_whitespace(text: str) -> str:
    """Replace each run of white space and control characters by one space."""
    return _BLANK.sub(" ", text).strip()


@dataclass
class SampleFiles:
    """The files of one key, collected into a sample or a bad sample."""

    key: str
    images: dict[str, ByteRange] = field(default_factory=dict)
    captions: dict[str, str | Rejected] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    bad_samples: list[BadSample] = field(default_factory=list)

    def reject(self, name: str, reason: Reason, detail: str) -> None:
        """Record a file that cannot be used."""
        self.bad_samples.append(BadSample(name, Rejected(reason, detail)))

    def add_caption(self, data: bytes, suffix: str, fields: Sequence[str]) -> None:
        """Add a caption file; its error counts only without a valid one."""
        try:
            self.captions[suffix] = parse_caption_file(data, suffix, fields)
        except Rejected as error:
            self.captions[suffix] = error.without_frames()

    def is_duplicate(self, suffix: str) -> bool:
        """Return whether a file of this kind is here already."""
        decoded = suffix in IMAGE_SUFFIXES - FOREIGN_SUFFIXES and not self.images.keys() <= FOREIGN_SUFFIXES
        return decoded or suffix in self.captions or suffix in self.images

    @property
    def complete(self) -> bool:
        """True if it has an image and a caption file."""
        return bool(self.images) and bool(self.captions)

    def results(self) -> Iterator[Sample | BadSample]:
        """Yield the sample or its error, and every file that was rejected."""
        yield from self.bad_samples
        kinds = ("table", *CAPTION_SUFFIXES, "metadata")
        captions = [self.captions[kind] for kind in kinds if kind in self.captions]
        caption = next((value for value in captions if isinstance(value, str)), None)
        if not self.images:
            others = ascii(self.others)[:200]
            if captions:
                detail = "a caption without an image of its key" + (f", beside {others}" if self.others else "")
                yield BadSample(self.key, Rejected(Reason.NO_IMAGE, detail), caption)
            elif self.others:
                yield BadSample(self.key, Rejected(Reason.UNKNOWN_FILE, others))
        elif caption is not None:
            chosen = min(self.images, key=FOREIGN_SUFFIXES.__contains__)
            yield Sample(self.key, caption, self.images[chosen])
            for other in self.images.keys() - {chosen}:
                yield BadSample(f"{self.key}.{other}", Rejected(Reason.DUPLICATE_KEY, f"{chosen} is taken instead"))
        else:
            error = next((value for value in captions if isinstance(value, Rejected)), None)
            yield BadSample(self.key, error or Rejected(Reason.NO_CAPTION, "an image without a caption of its key"))
