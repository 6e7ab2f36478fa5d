"""The decoder of foreign images: what it keeps, what it rejects, and that metadata costs no image."""

import io
import random
import zlib

import numpy as np
import pytest
from PIL import Image

from lightgen_core.images.codec import decode_image, encode_png
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.rejected import Reason, Rejected
from tests.factories.hostile_images import PIXELS, chunk, encoded_image, png


def test_an_image_of_the_right_size_keeps_its_bytes():
    """Any other becomes a PNG of that size."""
    rng = random.Random(0)
    right = encoded_image(rng, "JPEG", (32, 32))
    assert SafeImageDecoder(10**6, 32).reencode(right) == right
    for other in (
        encoded_image(rng, "JPEG", (64, 40)),
        encoded_image(rng, "WEBP", (32, 32)),
        encoded_image(rng, "PNG", (32, 32), "RGBA"),
    ):
        made = SafeImageDecoder(10**6, 32).reencode(other)
        assert (made[:4], decode_image(made).shape) == (b"\x89PNG", (32, 32, 3))


def test_the_middle_is_cut_out():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (SafeImageDecoder(300, 10).decode(encode_png(wide)) == 255).all()


def test_a_turned_image_is_set_upright_and_transparency_is_white():
    tall = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    tall.save(sink, "JPEG", exif=exif)
    assert SafeImageDecoder(100).decode(sink.getvalue()).shape == (8, 4, 3)
    sink = io.BytesIO()
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(sink, "PNG")
    assert (SafeImageDecoder(100).decode(sink.getvalue()) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_means_transparent_becomes_white(mode):
    """The pixels of a PNG with a key of transparency are not the file's own, so it is written again."""
    sink = io.BytesIO()
    Image.new(mode, (4, 4), 1).save(sink, "PNG", transparency=(1, 0, 0) if mode == "RGB" else 1)
    made = SafeImageDecoder(100).reencode(sink.getvalue())
    assert (decode_image(made) == 255).all()


METADATA_FAULTS = {
    "a bomb of text": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * (1 << 23), 9)),
    "a bomb of colours": chunk(b"iCCP", b"a\0\0" + zlib.compress(b"0" * (1 << 23), 9)),
    "text packed in another way": chunk(b"zTXt", b"a\0\7junk"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"!",
    "a short gamma": chunk(b"gAMA", b"1"),
    "a short scale": chunk(b"pHYs", b"1"),
    "a cut animation": chunk(b"acTL", b"1"),
    "EXIF that is none": chunk(b"eXIf", b"junk"),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS.values(), ids=METADATA_FAULTS)
def test_damaged_metadata_costs_no_png(fault):
    """It is written anew, since other decoders would stumble as well."""
    made = SafeImageDecoder(PIXELS).reencode(png(4, 4, b"\0\7\7\7\7" * 4, extra=fault))
    assert (decode_image(made) == 7).all()
    assert fault not in made


def test_damaged_metadata_hides_no_damaged_image():
    whole = encoded_image(random.Random(0), "PNG")
    cut = whole[:33] + METADATA_FAULTS["a wrong checksum"] + whole[33:1000]
    huge = png(60_000, 60_000, b"", extra=METADATA_FAULTS["a bomb of text"])
    for data, reason in ((cut, Reason.IMAGE_TRUNCATED), (huge, Reason.IMAGE_CORRUPT)):
        with pytest.raises(Rejected, match=str(reason)):
            SafeImageDecoder(PIXELS).decode(data)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_damaged_exif_turns_nothing(format, exif):
    sink = io.BytesIO()
    Image.new("RGB", (8, 4)).save(sink, format, exif=exif)
    assert SafeImageDecoder(100).decode(sink.getvalue()).shape == (4, 8, 3)


def test_a_thread_of_pixels_is_resized_without_growing():
    assert SafeImageDecoder(10**6, 64).decode(encode_png(np.zeros((1, 100_000, 3), np.uint8))).shape == (64, 64, 3)


def test_an_error_is_the_same_in_every_process():
    """A library's message may hold the address of an object."""
    for data in (b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xffjunk"):
        with pytest.raises(Rejected) as first:
            SafeImageDecoder(100).decode(data)
        assert "0x" not in first.value.detail.replace("\\x", "")
    assert str(Rejected(Reason.PROMPT_FAILED, "<Pipe object at 0x7f00AB12> at 0x1, not 0x2")) == (
        "the teacher failed on the prompt: <Pipe object>, not 0x2"
    )
