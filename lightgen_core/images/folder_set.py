"""Image sets in folders; a caption shares its image's name up to the suffix, or stands in a table that names it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from lightgen_core.images.caption_table import CaptionTable
from lightgen_core.images.files import Files, read_files
from lightgen_core.images.metadata import Metadata, read_metadata
from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    METADATA,
    BadSample,
    ByteRange,
    Sample,
    SampleFiles,
    key_and_suffix,
)
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class FolderSet:
    """Samples of a folder and its subfolders by name."""

    files: Files
    caption_fields: Sequence[str]
    max_image_bytes: int
    table: CaptionTable | None = None
    """Captions that lie elsewhere; they are preferred to those of the folder."""

    def parts(self) -> list["FolderSet"]:
        """Return the set itself: a folder is read as one."""
        return [self]

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples. Raises ImageSetError if there is a table, and it names no image."""
        table = self.table.read(self.files, self.caption_fields) if self.table else Metadata()
        passed_over = self.table.name_in(self.files) if self.table else None
        metadata = Metadata()
        for folder in self.files.folders():
            yield from folder.bad_samples
            names = []
            for name in folder.names:
                if name == passed_over:
                    continue
                if PurePosixPath(name).name.lower() in METADATA:
                    yield from read_metadata(self.files, name, self.caption_fields, metadata)
                else:
                    names.append(name)
            for key, group in groupby(sorted(names, key=key_and_suffix), key=lambda name: key_and_suffix(name)[0]):
                yield from self._assemble(key, list(group), {"table": table, "metadata": metadata})
        yield from table.left()
        yield from metadata.left()

    def _assemble(self, key: str, names: Sequence[str], rows: Mapping[str, Metadata]) -> Iterator[Sample | BadSample]:
        sample_files = SampleFiles(key)
        for name in names:
            suffix = key_and_suffix(name)[1]
            if sample_files.is_duplicate(suffix):
                sample_files.reject(name, Reason.DUPLICATE_KEY, "another file has this key and kind")
            elif suffix in CAPTION_SUFFIXES:
                self._add_caption(sample_files, name, suffix)
            elif suffix in IMAGE_SUFFIXES:
                sample_files.images[suffix] = ByteRange(name, 0, self.files.size(name))
            else:
                sample_files.others.append(name)
        further: list[BadSample] = []
        for kind, metadata in rows.items() if sample_files.images else ():
            caption, others = metadata.take(key)
            further += others
            if caption is not None:
                sample_files.captions[kind] = caption
        yield from sample_files.results()
        yield from further

    def _add_caption(self, sample_files: SampleFiles, name: str, suffix: str) -> None:
        data = self.files.read(name, CAPTION_FILE_BYTES)
        if data is None:
            sample_files.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
        else:
            sample_files.add_caption(data, suffix, self.caption_fields)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images."""
        yield from read_files(self.files, [byte_range.file for byte_range in ranges], self.max_image_bytes)
