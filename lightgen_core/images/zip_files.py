"""Files of a zip archive, read in place like those of a folder."""

import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from lightgen_core.images.remote_files import RemoteFiles, RemoteReadError
from lightgen_core.rejected import Reason, Rejected

SUFFIX = ".zip"
_BAD_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors of one member: damaged, encrypted, or compressed in a way that Python does not know."""


@dataclass(frozen=True)
class ZipFiles(RemoteFiles):
    """Members of a zip archive on this machine or on a remote file system."""

    @classmethod
    def open_archive(cls, archive: str | BinaryIO, address: str) -> "ZipFiles":
        """Open an archive by its path, or as an open file that can seek. Raises zipfile.BadZipFile.

        Where all members lie in one folder, as in what a repository's page gives, that folder is the set.
        """
        from fsspec.implementations.zip import ZipFileSystem

        fs = ZipFileSystem(archive, skip_instance_cache=True)
        tops = {name.partition("/")[0] for name in fs.find("")}
        top = next(iter(tops)) if len(tops) == 1 else ""
        return cls(fs, top if fs.isdir(top) else "", address)

    def _sizes(self) -> dict[str, int]:
        if not self._listing:
            found = self.fs.find(self.path, detail=True)
            start = len(self.path) + bool(self.path)
            self._listing.update((name[start:], info["size"] or 0) for name, info in found.items())
        return self._listing

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a member's bytes, None if over the limit. Raises Rejected if it is damaged or encrypted."""
        try:
            return super().read(name, limit)
        except RemoteReadError as error:
            if not isinstance(cause := error.__cause__, _BAD_MEMBER):
                raise
            raise Rejected(Reason.ARCHIVE_CORRUPT, f"cannot be read out of the archive: {_explain(cause)}") from error


def _explain(cause: Any) -> str:
    return str(cause) or type(cause).__name__
