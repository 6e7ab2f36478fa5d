"""Image sets in WebDataset tars."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby

from lightgen_core.images.files import Files, hidden, is_hidden
from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    BadSample,
    ByteRange,
    Sample,
    SampleFiles,
    key_and_suffix,
)
from lightgen_core.images.tar import Member, Stream, members
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class WebDatasetSet:
    """Samples of tars, in the order of tar names and first members.

    The files of a sample share their name up to the suffix and need not be neighbours. A key is the tar's name and the
    member's, so two tars may use the same names; within one tar only the first file of a name counts.
    """

    files: Files
    names: Sequence[str]
    caption_fields: Sequence[str]
    max_image_bytes: int

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples; a damaged tar ends with one bad sample."""
        for tar in self.names:
            yield from self._samples_of(tar)

    def parts(self) -> list["WebDatasetSet"]:
        """Return a set for each tar."""
        return [replace(self, names=[name]) for name in self.names]

    def _samples_of(self, tar: str) -> Iterator[Sample | BadSample]:
        by_key: dict[str, SampleFiles] = {}
        bad_samples: list[BadSample] = []
        last = ""
        try:
            with closing(Stream(self.files.open(tar))) as stream:
                for member in members(stream, self._is_caption):
                    if not isinstance(member, Member):
                        bad_samples.append(BadSample(f"{tar}/{member[0]}", member[1]))
                        continue
                    if is_hidden(member.name):
                        bad_samples.append(hidden(f"{tar}/{member.name}"))
                        continue
                    last = key_and_suffix(member.name)[0]
                    self._add(by_key.setdefault(last, SampleFiles(f"{tar}/{last}")), member, tar)
            last = ""
        except Rejected as error:
            bad_samples.append(BadSample(f"{tar}: the rest", error.without_frames()))
        for key, files in by_key.items():
            if key != last or files.complete:  # the partner of the last one is in the rest that was lost
                yield from files.results()
        yield from bad_samples

    @staticmethod
    def _is_caption(name: str, size: int) -> bool:
        return key_and_suffix(name)[1] in CAPTION_SUFFIXES and size <= CAPTION_FILE_BYTES

    def _add(self, files: SampleFiles, member: Member, tar: str) -> None:
        name, suffix = f"{tar}/{member.name}", key_and_suffix(member.name)[1]
        if files.is_duplicate(suffix):
            files.reject(name, Reason.DUPLICATE_KEY, "an earlier member has this key and kind")
        elif member.data is not None:
            files.add_caption(member.data, suffix, self.caption_fields)
        elif suffix in CAPTION_SUFFIXES:
            detail = f"{member.size} bytes; at most {CAPTION_FILE_BYTES}"
            files.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, detail)
        elif suffix in IMAGE_SUFFIXES:
            files.images[suffix] = ByteRange(tar, member.start, member.size)
        else:
            files.others.append(member.name)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images; a gzipped tar is inflated once for ascending ranges."""
        for tar, group in groupby(ranges, key=lambda byte_range: byte_range.file):
            with ExitStack() as stack:
                stream = stack.enter_context(closing(Stream(self.files.open(tar))))
                for byte_range in group:
                    if byte_range.length > self.max_image_bytes:
                        detail = f"{byte_range.length} bytes; at most {self.max_image_bytes}"
                        yield Rejected(Reason.IMAGE_TOO_LARGE, detail)
                        continue
                    if stream.at > byte_range.start:
                        stream = stack.enter_context(closing(Stream(self.files.open(tar))))
                    try:
                        stream.skip_to(byte_range.start)
                        image: bytes | Rejected = stream.take(byte_range.length)
                    except Rejected as error:
                        image = error.without_frames()
                    yield image
