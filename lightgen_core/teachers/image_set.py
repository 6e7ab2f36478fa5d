"""An existing set of pictures in the teacher's place: the captions that were kept choose among its samples."""

from collections.abc import Iterable, Iterator

from lightgen_core.images.image_set import open_set
from lightgen_core.images.ordered_map import map_ahead
from lightgen_core.images.sample import Fault, Sample
from lightgen_core.images.untrusted import Untrusted
from lightgen_core.rejected import Rejected
from lightgen_core.teachers.config import ImageSetConfig


class ImageSetTeacher:
    """Gives the pictures of a set whose caption is among those kept, in the set's order.

    Attributes:
        samples: what will be given.
        faults: what of the set could not be taken, whatever its caption.
        not_kept: samples whose caption was not kept.
        beyond: samples with a kept caption that were too many.
    """

    def __init__(self, config: ImageSetConfig, captions: Iterable[str], count: int) -> None:
        self.set = open_set(
            config.path,
            config.format,
            caption_fields=config.caption_fields,
            image_column=config.image_column,
            picture_bytes=config.max_bytes,
        )
        kept = frozenset(captions)
        self.samples: list[Sample] = []
        self.faults: list[Fault] = []
        self.not_kept = self.beyond = 0
        for found in self.set.samples():
            if isinstance(found, Fault):
                self.faults.append(found)
            elif found.caption not in kept:
                self.not_kept += 1
            elif len(self.samples) < count:
                self.samples.append(found)
            else:
                self.beyond += 1
        self._decoder = Untrusted(config.max_pixels, config.size)

    def pictures(self, start: int, stop: int, threads: int = 1) -> Iterator[bytes | Rejected]:
        """Yield the encoded pictures of `samples[start:stop]`, checked by so many threads, or why there is none."""
        places = [sample.place for sample in self.samples[start:stop]]
        yield from map_ahead(self._checked, self.set.read(places), threads)

    def _checked(self, data: bytes | Rejected) -> bytes | Rejected:
        if isinstance(data, Rejected):
            return data
        try:
            return self._decoder.encoded(data)
        except Rejected as why:
            return why.kept()
