"""Images decoded and encoded in threads: order, bytes, what is made ahead, and errors."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from lightgen_core.images.codec import decode_image, encode_image, encode_png
from lightgen_core.images.parallel import decode_batches, decode_images, encode_images, encoded_bytes
from lightgen_core.rejected import Reason, Rejected

IMAGES = [np.random.default_rng(number).integers(0, 256, (9, 7 + number, 3), np.uint8) for number in range(11)]
PNGS = [encode_png(image) for image in IMAGES]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_batches_are_in_order_with_any_number_of_threads(threads):
    batches = list(decode_batches(PNGS, range(11), 4, threads, np.transpose))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    expected = [image.transpose().tolist() for image in IMAGES]
    assert [image.tolist() for batch in batches for image in batch] == expected


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_bytes_and_errors_keep_their_order(threads):
    failed = Rejected(Reason.PROMPT_FAILED)
    made = list(encode_images([*IMAGES[:5], failed, *IMAGES[5:]], threads))
    assert made == [*PNGS[:5], failed, *PNGS[5:]]


def test_the_next_batch_is_made_while_the_caller_works():
    """It is complete before the caller asks for it, and nothing beyond it is begun."""
    made, condition = [], threading.Condition()

    def note(image: np.ndarray) -> int:
        with condition:
            made.append(image.shape[1] - 7)
            condition.notify()
        return made[-1]

    batches = decode_batches(PNGS, range(11), 4, 2, note)
    next(batches)
    with condition:
        assert condition.wait_for(lambda: len(made) >= 8, timeout=20)
    assert (sorted(made), next(batches)) == (list(range(8)), [4, 5, 6, 7])


def test_a_damaged_image_is_named_by_its_id():
    with pytest.raises(ValueError, match=r"^image 104 cannot be decoded: "):
        decode_images([*PNGS[:4], PNGS[4][:60], PNGS[5]], range(100, 106), threads=2)


@pytest.mark.parametrize(("format", "quality"), [("png", None), ("webp", None)])
def test_lossless_formats_return_every_pixel(format, quality):
    assert all((decode_image(encode_image(image, format, quality)) == image).all() for image in IMAGES)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_a_higher_quality_is_larger(format):
    sizes = [len(encode_image(IMAGES[0], format, quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(set(sizes))


def test_encoded_images_are_read_chunk_by_chunk():
    """A column beyond 2 GiB cannot be one array; `combine_chunks` is an error there."""
    chunks = [pa.array([{"bytes": png, "path": None} for png in part]) for part in (PNGS[:4], PNGS[4:9], PNGS[9:])]
    column = pa.chunked_array([chunks[0].slice(1), chunks[1], chunks[2].slice(0, 0), chunks[2]])
    assert encoded_bytes(column) == PNGS[1:]
