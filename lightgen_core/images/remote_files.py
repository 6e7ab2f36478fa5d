"""Files of an image set on a remote file system, through fsspec."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Self, cast

from lightgen_core.images.files import Folder, hidden, is_hidden
from lightgen_core.images.sample import BadSample, checked_member_name
from lightgen_core.rejected import Reason, Rejected

BLOCK_BYTES = 8 << 20
"""Bytes that an open remote file reads ahead."""
_CHECKSUMS = ("CRC", "ETag", "etag", "md5", "md5Hash", "content_md5", "checksum", "LastModified", "mtime", "created")
"""Keys under which file systems list a checksum or a time of change, the preferred one first."""


class RemoteReadError(Exception):
    """A remote file that was listed cannot be read now."""


@dataclass(frozen=True)
class RemoteFiles:
    """Files of an fsspec file system, read in place and listed once."""

    fs: Any
    path: str
    """The folder without its protocol."""
    address: str
    file: str | None = None
    """The only file, where the set is one file."""
    names: frozenset[str] | None = None
    _listing: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def root(self) -> str:
        """Address of the folder, or of the one file."""
        return f"{self.address}/{self.file}" if self.file else self.address

    def only(self, names: frozenset[str]) -> Self:
        """Return the same files but for those of other names."""
        return replace(self, names=names)

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of every file by name, also of those of another split."""
        if not self._listing:
            found = self.fs.find(self.path, detail=True)
            start = len(self.path) + 1
            self._listing.update((path[start:], info["size"] or 0) for path, info in found.items())
        return self._listing

    def _names(self) -> Iterator[str]:
        return (name for name in self._sizes() if self.names is None or name in self.names)

    def checksums(self) -> dict[str, str]:
        """Return size and checksum of each file, by name; where the file system lists none, its time of change."""
        path = f"{self.path}/{self.file}" if self.file else self.path
        found = {path: self.fs.info(path)} if self.file else self.fs.find(self.path, detail=True)
        return {name.removeprefix(self.path): _checksum(info) for name, info in found.items()}

    def folders(self) -> Iterator[Folder]:
        """Yield every folder, in the order of `LocalFiles`."""
        tree: dict[str, Any] = {}
        for name in self._names():
            *parents, last = name.split("/")
            node = tree
            for part in parents:
                node = node.setdefault(f"{part}/", {})
            node[last] = None
        pending = [("", tree)]
        while pending:
            prefix, node = pending.pop()
            folder, subfolders = Folder([], []), []
            for part in sorted(node, key=lambda part: os.fsencode(part.rstrip("/"))):
                name = prefix + part
                try:
                    checked_member_name(os.fsencode(name))
                    if is_hidden(part):
                        folder.bad_samples.append(hidden(name))
                    elif part.endswith("/"):
                        subfolders.append((name, node[part]))
                    else:
                        folder.names.append(name)
                except Rejected as error:
                    folder.bad_samples.append(BadSample(ascii(name[:200])[1:-1], error.without_frames()))
            yield folder
            pending += reversed(subfolders)

    def find(self, *suffixes: str) -> list[str]:
        """Return the names with a suffix; the file itself where the set is one."""
        if self.file:
            return [self.file]
        return sorted(
            (name for name in self._names() if name.lower().endswith(suffixes)), key=lambda name: name.split("/")
        )

    def exists(self, name: str) -> bool:
        """Return whether a name is one of a file, also of another split."""
        return name in self._sizes()

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        return self._sizes()[name]

    def open(self, name: str, *, scattered: bool = False) -> BinaryIO:
        """Open a file; it reads ahead, unless only few places of it are read."""
        return cast(BinaryIO, _RemoteFile(self.fs, f"{self.path}/{name}", "none" if scattered else "readahead"))

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes in one request, None if over the limit."""
        if not self.exists(name):
            raise Rejected(Reason.SPECIAL_FILE, "not in the set")
        if self._sizes()[name] > limit:
            return None
        with _remote_errors(f"{self.root}/{name}"):
            return self.fs.cat_file(f"{self.path}/{name}")


def _checksum(info: Mapping[str, Any]) -> str:
    known = next((info[key] for key in _CHECKSUMS if info.get(key)), None)
    return f"{info.get('size')} {known}"


@contextmanager
def _remote_errors(address: str) -> Iterator[None]:
    """Turn the client's errors into one that is no sign of damaged data."""
    try:
        yield
    except Exception as error:
        raise RemoteReadError(f"{address} cannot be read: {type(error).__name__}: {error}") from error


class _RemoteFile(io.RawIOBase):
    """An open file whose errors are `RemoteReadError`."""

    def __init__(self, fs: Any, path: str, cache: str) -> None:
        self._path = path
        with _remote_errors(path):
            self._file = fs.open(path, "rb", block_size=BLOCK_BYTES, cache_type=cache)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        with _remote_errors(self._path):
            return self._file.read(-1 if size is None else size)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
