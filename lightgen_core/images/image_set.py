"""The interface of image sets, and opening one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from lightgen_core.images.folder_set import FolderSet
from lightgen_core.images.parquet_set import ParquetSet
from lightgen_core.images.sample import BadSample, ByteRange, ImageSetError, Sample
from lightgen_core.images.webdataset_set import WebDatasetSet
from lightgen_core.rejected import Rejected
from lightgen_core.walk import find_files

Format = Literal["webdataset", "parquet", "folder"]
CAPTION_FIELDS = ("prompt", "caption", "text")
MAX_IMAGE_BYTES = 1 << 26


class ImageSet(Protocol):
    """Images with captions, in an order that depends on the file names alone."""

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples, and bad samples as far as they show without reading images."""

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield the bytes of each range or an error; ascending ranges take one pass."""


def open_image_set(
    path: str | Path,
    format: Format,
    *,
    caption_fields: Sequence[str] = CAPTION_FIELDS,
    image_column: str = "image",
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> ImageSet:
    """Open a set of images with captions.

    Args:
        path: a folder, searched with all folders in it, linked ones too; or one file. Suffixes count in any case.
        format: webdataset: tars, plain or gzipped, in which the files of a sample share their name up to the suffix
            (jpg + json, jpg + txt); folder: such files in a folder, or images with a metadata.jsonl (imagefolder of
            Hugging Face `datasets`); parquet: as `datasets` writes it.
        caption_fields: JSON fields or Parquet columns of the caption; the first one with a usable caption counts.
        image_column: parquet: an Image feature, or encoded images as bytes.

    Raises:
        ImageSetError: no such file or folder, or nothing of that format in it.
    """
    root, fields = Path(path).expanduser(), tuple(caption_fields)
    if format == "folder":
        if not root.is_dir():
            raise ImageSetError(f"{root} is no folder; format folder takes one of images and captions")
        return FolderSet(root, fields, max_image_bytes)
    suffixes = (".parquet",) if format == "parquet" else (".tar", ".tar.gz", ".tgz")
    if not root.exists():
        raise ImageSetError(f"there is no {root}; give a {suffixes[0]} file or a folder of them")
    files = find_files(root, *suffixes)
    if not files:
        hint = "" if not any(root.glob("*.arrow")) else "; a folder of save_to_disk: write it with to_parquet"
        raise ImageSetError(f"{root} holds no {' or '.join(suffixes)} file{hint}")
    base = root.parent if root.is_file() else root
    if format == "parquet":
        return ParquetSet(base, files, fields, image_column, max_image_bytes)
    return WebDatasetSet(base, files, fields, max_image_bytes)
