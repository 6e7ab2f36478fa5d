"""The form of a data set, by what lies at its location."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from lightgen_core.images.files import Files, hidden, is_hidden
from lightgen_core.images.row_set import has_image_rows
from lightgen_core.images.sample import IMAGE_SUFFIXES, METADATA, BadSample, ImageSetError, key_and_suffix
from lightgen_core.images.table_set import has_images
from lightgen_core.images.tables import CSV_SUFFIXES, JSON_SUFFIXES
from lightgen_core.rejected import Reason, Rejected

SUFFIXES: dict[str, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "jsonl": JSON_SUFFIXES,
    "csv": CSV_SUFFIXES,
}
"""Suffixes of the files of each form, but for folders of images, in the order in which the forms are looked for."""
_NAMES_SHOWN = 3


def data_files(files: Files, form: str) -> tuple[list[str], list[BadSample]]:
    """Return the names of a form's files, and what is passed over: hidden files. Raises ImageSetError."""
    found = form_names(files.find(""), form) if files.file is None else [files.file]
    names = [name for name in found if not is_hidden(name) and PurePosixPath(name).name.lower() not in METADATA]
    names = names or [name for name in found if not is_hidden(name)]
    if not names:
        suffixes = " or ".join(SUFFIXES[form][:3])
        raise ImageSetError(f"{files.root} holds no {suffixes} file; it holds {describe(files)}")
    return names, [hidden(name) for name in found if is_hidden(name)]


def form_names(found: Sequence[str], form: str) -> list[str]:
    """Return the names of a form's suffixes, but for JSON captions that stand beside their image."""
    names = [name for name in found if name.lower().endswith(SUFFIXES[form])]
    if form != "jsonl":
        return names
    images = {key_and_suffix(name)[0] for name in found if key_and_suffix(name)[1] in IMAGE_SUFFIXES}
    return [name for name in names if not (name.lower().endswith(".json") and key_and_suffix(name)[0] in images)]


def describe(files: Files) -> str:
    """Return the suffixes of the files with their numbers."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files.find(""))
    return ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(8)) or "no file"


def find_form(files: Files, image_columns: Sequence[str]) -> str:
    """Return the form of an image set: that of the first kind of archive or table with images, else a folder.

    Raises:
        ImageSetError: there is no image.
    """
    found = [name for name in files.find("") if not is_hidden(name)]
    for form in SUFFIXES:
        names = form_names(found, form)
        if names and form == "webdataset":
            return form
        if any(PurePosixPath(name).name.lower() in METADATA for name in found) and len(found) > 1:
            return "folder"
        has = has_image_rows if form in ("jsonl", "csv") else has_images
        if names and has(files, names[0], image_columns):
            return form
    if has_image_files(files):
        return "folder"
    raise ImageSetError(
        f"{files.root} holds no image set: found {describe(files)}; expected images, or .tar, .parquet, .arrow, .jsonl "
        "or .csv files with images in them or their paths"
    )


def has_image_files(files: Files) -> bool:
    """Return whether there is a file with the suffix of an image."""
    found = files.find(*(f".{suffix}" for suffix in IMAGE_SUFFIXES))
    return any(PurePosixPath(name).suffix[1:].lower() in IMAGE_SUFFIXES and not is_hidden(name) for name in found)


def beside(files: Files, form: str, names: Sequence[str]) -> list[BadSample]:
    """Return one bad sample for each kind of data beside the files of a form that was found, which is not read."""
    others: dict[str, list[str]] = {}
    for name in files.find("") if form != "folder" else ():
        suffix = PurePosixPath(name).suffix.lower()
        is_data = any(name.lower().endswith(suffixes) for each, suffixes in SUFFIXES.items() if each != form)
        is_image = form == "webdataset" and suffix[1:] in IMAGE_SUFFIXES
        if (is_data or is_image) and not is_hidden(name) and name not in names:
            others.setdefault(suffix, []).append(name)
    return [
        BadSample(some[0], Rejected(Reason.UNKNOWN_FILE, f"{len(some)} x {suffix}: the set is read as {form}"))
        for suffix, some in others.items()
    ]
