"""WebDataset: tars in which the files of one sample share their name up to the suffix."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTIONS,
    PICTURES,
    Fault,
    Parts,
    Place,
    Sample,
    key_and_suffix,
)
from lightgen_core.images.tar import Member, Stream, members
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class WebDatasetSet:
    """The samples of some tars, in the order of the tars' names and of their first members.

    The files of a sample need not be neighbours. A key is the tar's name and the member's, so two tars may use the
    same names; within one tar the first file of a name is taken and a later one is a fault.
    """

    base: Path
    tars: Sequence[Path]
    caption_fields: Sequence[str]
    picture_bytes: int

    def samples(self) -> Iterator[Sample | Fault]:
        """Yield samples and faults. A tar that is cut or damaged gives what was whole before, and one fault."""
        for tar in self.tars:
            yield from self._samples_of(tar, tar.relative_to(self.base).as_posix())

    def _samples_of(self, path: Path, tar: str) -> Iterator[Sample | Fault]:
        found: dict[str, Parts] = {}
        faults: list[Fault] = []
        last = ""
        try:
            with closing(Stream(path)) as stream:
                for member in members(stream, self._is_caption):
                    if not isinstance(member, Member):
                        faults.append(Fault(f"{tar}/{member[0]}", member[1]))
                        continue
                    last = key_and_suffix(member.name)[0]
                    self._add(found.setdefault(last, Parts(f"{tar}/{last}")), member, tar)
            last = ""
        except Rejected as why:
            faults.append(Fault(f"{tar}: the rest", why.kept()))
        for key, parts in found.items():
            if key != last or parts.complete:  # the partner of the last one is in the rest that was lost
                yield from parts.result()
        yield from faults

    @staticmethod
    def _is_caption(name: str, size: int) -> bool:
        return key_and_suffix(name)[1] in CAPTIONS and size <= CAPTION_FILE_BYTES

    def _add(self, parts: Parts, member: Member, tar: str) -> None:
        name, suffix = f"{tar}/{member.name}", key_and_suffix(member.name)[1]
        if suffix in parts.captions or (suffix in PICTURES and parts.picture is not None):
            parts.reject(name, Reason.DUPLICATE_KEY, "an earlier member has this key and kind")
        elif member.data is not None:
            parts.add_caption(member.data, suffix, self.caption_fields)
        elif suffix in CAPTIONS:
            detail = f"{member.size} bytes; at most {CAPTION_FILE_BYTES}"
            parts.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, detail)
        elif suffix in PICTURES:
            parts.picture = Place(tar, member.start, member.size)
        else:
            parts.others.append(member.name)

    def read(self, places: Sequence[Place]) -> Iterator[bytes | Rejected]:
        """Yield pictures; a gzipped tar is inflated from its begin, once for a run of rising places."""
        for tar, run in groupby(places, key=lambda place: place.file):
            with ExitStack() as opened:
                stream = opened.enter_context(closing(Stream(self.base / tar)))
                for place in run:
                    if place.length > self.picture_bytes:
                        yield Rejected(Reason.PICTURE_TOO_LARGE, f"{place.length} bytes; at most {self.picture_bytes}")
                        continue
                    if stream.at > place.start:
                        stream = opened.enter_context(closing(Stream(self.base / tar)))
                    yield _bytes_at(stream, place)


def _bytes_at(stream: Stream, place: Place) -> bytes | Rejected:
    try:
        stream.skip_to(place.start)
        return stream.take(place.length)
    except Rejected as why:
        return why.kept()
