"""An existing image set as teacher, filtered by the chosen captions."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lightgen_core.images.codec import encode_png
from lightgen_core.images.image_set import WithPassedOver, open_image_set
from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Rejected
from lightgen_core.teachers.config import ImageSetConfig


def open_configured_set(config: ImageSetConfig) -> WithPassedOver:
    """Open the image set that a recipe names. Raises ImageSetError."""
    return open_image_set(
        config.path,
        config.format,
        split=config.split,
        subset=config.subset,
        captions=config.captions,
        caption_fields=config.caption_fields,
        image_column=config.image_column,
        max_image_bytes=config.max_bytes,
    )


class ImageSetTeacher:
    """Return the images of a set with a chosen caption, in the set's order.

    Attributes:
        bad_samples: unusable ones, with any caption.
        unmatched: samples whose caption was not chosen.
        surplus: samples with a chosen caption beyond the count.
        unused: chosen captions of no sample.
    """

    def __init__(
        self,
        config: ImageSetConfig,
        captions: Iterable[str],
        count: int,
        encode: Callable[[np.ndarray], bytes] = encode_png,
    ) -> None:
        self.set = open_configured_set(config)
        chosen = frozenset(captions)
        self.samples: list[Sample] = []
        self.bad_samples: list[BadSample] = []
        self.unmatched = self.surplus = 0
        for sample in self.set.samples():
            if isinstance(sample, BadSample):
                self.bad_samples.append(sample)
            elif sample.caption not in chosen:
                self.unmatched += 1
            elif len(self.samples) < count:
                self.samples.append(sample)
            else:
                self.surplus += 1
        self.unused = len(chosen - {sample.caption for sample in self.samples})
        self._decoder = SafeImageDecoder(config.max_pixels, config.size, encode=encode)

    def images(self, start: int, stop: int, threads: int = 1) -> Iterator[bytes | Rejected]:
        """Yield the encoded images of `samples[start:stop]`, checked by threads, or errors."""
        ranges = [sample.byte_range for sample in self.samples[start:stop]]
        yield from ordered_map(self._checked, self.set.read(ranges), threads)

    def _checked(self, data: bytes | Rejected) -> bytes | Rejected:
        if isinstance(data, Rejected):
            return data
        try:
            return self._decoder.reencode(data)
        except Rejected as error:
            return error.without_frames()
