"""The interface of image sets, and opening one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lightgen_core.images.caption_table import CaptionTable
from lightgen_core.images.files import Files
from lightgen_core.images.folder_set import FolderSet
from lightgen_core.images.form import beside, data_files, find_form, has_image_files
from lightgen_core.images.location import LocationError, open_files, parse_hub
from lightgen_core.images.reference import IMAGE_COLUMNS
from lightgen_core.images.row_set import RowSet
from lightgen_core.images.sample import CAPTION_FIELDS, BadSample, ByteRange, ImageSetError, Sample
from lightgen_core.images.splits import is_hub_layout, is_saved, saved_names, split_names
from lightgen_core.images.table_set import TableSet
from lightgen_core.images.webdataset_set import WebDatasetSet
from lightgen_core.images.zip_files import ZipFiles
from lightgen_core.rejected import Rejected

Format = Literal["folder", "webdataset", "parquet", "arrow", "jsonl", "csv", "dataset"]
MAX_IMAGE_BYTES = 1 << 26


class ImageSet(Protocol):
    """Images with captions, in an order that depends on the file names alone."""

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples, and bad samples as far as they show without reading images."""

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield the bytes of each range or an error; ascending ranges take one pass."""

    def parts(self) -> Sequence["ImageSet"]:
        """Return the set's files as sets of their own, as far as they can be read alone."""


@dataclass(frozen=True)
class WithPassedOver:
    """An image set whose bad samples begin with the files that it does not read."""

    image_set: ImageSet
    form: str
    passed_over: Sequence[BadSample]

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield what is passed over, then samples and bad samples."""
        yield from self.passed_over
        yield from self.image_set.samples()

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield the bytes of each range or an error."""
        return self.image_set.read(ranges)

    def parts(self) -> Sequence[ImageSet]:
        """Return the set's files as sets of their own."""
        return self.image_set.parts()


def open_split(location: str, format: str | None, split: str | None, subset: str | None) -> tuple[Files, str | None]:
    """Open the files of a split, and return their form where it is known. Raises ImageSetError.

    Splits are those of a data set of the hub, of `save_to_disk`, or of a folder laid out for the hub; of anything else
    only where a split or subset is named.
    """
    try:
        files = open_files(location)
        if files.file is None and format in (None, "dataset", "arrow") and is_saved(files):
            return files.only(frozenset(saved_names(files, split))), "arrow"
        as_dataset = split or subset or format == "dataset" or parse_hub(location) is not None
        if files.file is None and (as_dataset or (format is None and is_hub_layout(files))):
            if isinstance(files, ZipFiles):
                raise ImageSetError(f"{files.root} holds a data set with splits, which is read from a folder: unzip it")
            files = files.only(split_names(files, split, subset))
    except LocationError as error:
        raise ImageSetError(str(error)) from error
    return files, None if format == "dataset" else format


def open_image_set(
    path: str | Path,
    format: Format | None = None,
    *,
    split: str | None = None,
    subset: str | None = None,
    captions: str | Path | None = None,
    caption_fields: Sequence[str] = CAPTION_FIELDS,
    image_column: str = "image",
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> WithPassedOver:
    """Open a set of images with captions.

    Args:
        path: a location (`location.py`): a folder, searched with all folders in it; or one file. Suffixes count in any
            case.
        format: webdataset: tars, plain or gzipped, in which the files of a sample share their name up to the suffix
            (jpg + json, jpg + txt); folder: such files in a folder, or images with metadata (imagefolder of Hugging
            Face `datasets`); parquet, arrow: as `datasets` writes them; jsonl, csv: rows with the path of an image, in
            JSON also base64; dataset: a split, of any of these forms. None: what is found there.
        split: of a Hugging Face data set; None: train of one, all files of anything else.
        subset: configuration of the data set; None: its default one.
        captions: location of a table that names images of the folder, with captions, preferred to others. Names may
            have folders in front, or lack them.
        caption_fields: JSON fields or columns of the caption; the first one with a usable caption counts.
        image_column: field or column of the image; "image" stands for the usual names (IMAGE_COLUMNS).

    Raises:
        ImageSetError: no such file or folder, nothing of that format in it, or captions for another form than a folder.
    """
    fields = tuple(caption_fields)
    columns = IMAGE_COLUMNS if image_column == "image" else (image_column,)
    files, form = open_split(str(path), format, split, subset)
    table = CaptionTable.open(str(captions)) if captions else None
    found = "folder" if table and form is None and has_image_files(files) else form or find_form(files, columns)
    if table and found != "folder":
        raise ImageSetError(
            f"{files.root} is read as {found}, by format or by what lies there, and captions names images of a folder; "
            "take captions out, or name the folder of the images"
        )
    if found == "folder":
        if files.file is not None:
            raise ImageSetError(f"{files.root} is no folder; format folder takes one of images and captions")
        return WithPassedOver(FolderSet(files, fields, max_image_bytes, table), found, ())
    names, passed_over = data_files(files, found)
    if format in (None, "dataset"):
        passed_over += beside(files, found, names)
    opened: ImageSet
    if found == "webdataset":
        opened = WebDatasetSet(files, names, fields, max_image_bytes)
    elif found in ("jsonl", "csv"):
        opened = RowSet(files, names, fields, columns, max_image_bytes)
    else:
        opened = TableSet(files, names, fields, columns, max_image_bytes)
    return WithPassedOver(opened, found, passed_over)
