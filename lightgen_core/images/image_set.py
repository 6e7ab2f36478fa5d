"""What every kind of image set can do, and opening one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from lightgen_core.images.folder_set import FolderSet
from lightgen_core.images.parquet_set import ParquetSet
from lightgen_core.images.sample import Fault, ImageSetError, Place, Sample
from lightgen_core.images.webdataset_set import WebDatasetSet
from lightgen_core.rejected import Rejected

Format = Literal["webdataset", "parquet", "folder"]
CAPTION_FIELDS = ("prompt", "caption", "text")
PICTURE_BYTES = 1 << 26


class ImageSet(Protocol):
    """Pictures with captions, in an order that depends on the set's names alone."""

    def samples(self) -> Iterator[Sample | Fault]:
        """Yield every sample, its picture unread, and every fault that can be seen without reading pictures."""
        ...

    def read(self, places: Sequence[Place]) -> Iterator[bytes | Rejected]:
        """Yield the bytes at each place, or why they cannot be had. Rising places are read in one pass."""
        ...


def open_set(
    path: str | Path,
    format: Format,
    *,
    caption_fields: Sequence[str] = CAPTION_FIELDS,
    image_column: str = "image",
    picture_bytes: int = PICTURE_BYTES,
) -> ImageSet:
    """Open a set of pictures with captions.

    Args:
        path: a folder, searched with all folders in it; or one file.
        format: webdataset: tars, plain or gzipped, in which the files of a sample share their name up to the suffix
            (jpg + json, jpg + txt); folder: such files in a folder; parquet: as Hugging Face `datasets` writes it.
        caption_fields: where the caption is: fields of a JSON file, columns of a Parquet file; the first one found.
        image_column: parquet: an Image feature, or encoded pictures as bytes.
        picture_bytes: longest encoded picture that is taken.

    Raises:
        ImageSetError: nothing of that format is there.
    """
    root, fields = Path(path).expanduser(), tuple(caption_fields)
    if format == "folder":
        if not root.is_dir():
            raise ImageSetError(f"{root} is no folder; format folder takes one of pictures and captions")
        return FolderSet(root, fields, picture_bytes)
    suffixes = (".parquet",) if format == "parquet" else (".tar", ".tar.gz", ".tgz")
    if not root.exists():
        raise ImageSetError(f"there is no {root}; give a {suffixes[0]} file or a folder of them")
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.name.endswith(suffixes))
    files = [path for path in found if path.is_file()]  # a pipe would never end
    if not files:
        hint = "" if not any(root.glob("*.arrow")) else "; a folder of save_to_disk: write it with to_parquet"
        raise ImageSetError(f"{root} holds no {' or '.join(suffixes)} file{hint}")
    base = root.parent if root.is_file() else root
    if format == "parquet":
        return ParquetSet(base, files, fields, image_column, picture_bytes)
    return WebDatasetSet(base, files, fields, picture_bytes)
