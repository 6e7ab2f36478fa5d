"""Files of an image set on this machine or on a remote file system, by their names below one root."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, cast

from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.images.sample import BadSample, checked_member_name
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.walk import find_files

BLOCK_BYTES = 8 << 20
"""Bytes that an open remote file reads ahead."""
_REQUESTS = 16
"""Remote files read at once."""
_CHECKSUMS = ("ETag", "etag", "md5", "md5Hash", "content_md5", "checksum", "LastModified", "mtime", "created")
"""Keys under which file systems list a checksum or a time of change, the preferred one first."""
_SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that operating systems leave among images."""


class RemoteReadError(Exception):
    """A remote file that was listed cannot be read now."""


class Folder(NamedTuple):
    """The files of one folder, sorted, and what in it cannot be read."""

    names: list[str]
    bad_samples: list[BadSample]


class Files(Protocol):
    """Read-only files; names are relative, with slashes, and in one order on any file system."""

    @property
    def root(self) -> str:
        """Address of the root, for messages and for `datasets`."""

    @property
    def file(self) -> str | None:
        """Name of the only file, where the set is one file; its folder may hold images that it names."""

    @property
    def names(self) -> frozenset[str] | None:
        """Names of a split, where only these are read."""

    def only(self, names: frozenset[str]) -> Self:
        """Return the same files but for those of other names."""

    def folders(self) -> Iterator[Folder]:
        """Yield every folder, a folder before its subfolders."""

    def find(self, *suffixes: str) -> list[str]:
        """Return the names with one of the suffixes, in any case, sorted; hidden ones too."""

    def exists(self, name: str) -> bool:
        """Return whether a name is one of a file that may be read, also of another split."""

    def size(self, name: str) -> int:
        """Return a file's bytes."""

    def open(self, name: str) -> BinaryIO:
        """Open a file that was found; seekable."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes, None if over the limit. Raises Rejected if it may or can not be read."""


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it begins with a dot, or is an operating system's own."""
    return any(part.startswith(".") or part in _SYSTEM for part in PurePosixPath(name).parts)


def hidden(name: str) -> BadSample:
    """Return the bad sample of a hidden file or folder."""
    detail = "begins with a dot, or is an operating system's own; rename it to have it read"
    return BadSample(name, Rejected(Reason.HIDDEN, detail))


@dataclass(frozen=True)
class LocalFiles:
    """Files of this machine.

    Images and captions may be links to files in the root and, as in a snapshot of the Hugging Face cache, in a folder
    `blobs` beside it or above it. Any other link could bring a foreign file into the set. Archives may lie behind
    any link (`find`).
    """

    path: Path
    file: str | None = None
    """The only file, where the set is one file: then `path` is its folder."""
    names: frozenset[str] | None = None

    @property
    def root(self) -> str:
        """Path of the folder, or of the one file."""
        return str(self.path / self.file if self.file else self.path)

    def only(self, names: frozenset[str]) -> Self:
        """Return the same files but for those of other names."""
        return replace(self, names=names)

    def folders(self) -> Iterator[Folder]:
        """Yield every folder; a link to a folder is named, not entered."""
        pending = [self.path]
        while pending:
            folder, subfolders = Folder([], []), []
            for path in sorted(pending.pop().iterdir(), key=os.fsencode):
                raw = os.fsencode(path.relative_to(self.path))
                try:
                    name = checked_member_name(raw)
                    is_folder = path.is_dir() and not path.is_symlink()
                    if is_hidden(path.name):
                        folder.bad_samples.append(hidden(f"{name}/" if is_folder else name))
                    elif is_folder:
                        subfolders.append(path)
                    elif self.names is None or name in self.names:
                        self._resolve(name)
                        folder.names.append(name)
                except Rejected as error:
                    folder.bad_samples.append(BadSample(ascii(raw[:200])[2:-1], error.without_frames()))
            yield folder
            pending += reversed(subfolders)

    def find(self, *suffixes: str) -> list[str]:
        """Return the names with a suffix, in folders behind links too."""
        return [self.file] if self.file else [name for name in self._found if name.lower().endswith(suffixes)]

    @cached_property
    def _found(self) -> list[str]:
        found = [path.relative_to(self.path).as_posix() for path in find_files(self.path, "")]
        return [name for name in found if self.names is None or name in self.names]

    def exists(self, name: str) -> bool:
        """Return whether a name is one of a file that may be read, also of another split."""
        try:
            return bool(self._resolve(name))
        except (Rejected, OSError):
            return False

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        return (self.path / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        """Open a file that was found."""
        return (self.path / name).open("rb")

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes, None if over the limit; it is opened without following a link."""
        try:
            descriptor = os.open(self._resolve(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Rejected(Reason.SPECIAL_FILE, f"cannot be opened any more: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    def _resolve(self, name: str) -> Path:
        """Return the path of a regular file, of an allowed link its target. Raises Rejected."""
        path = self.path / name
        if path.is_symlink():
            path, root = Path(os.path.realpath(path)), Path(os.path.realpath(self.path))
            if not any(path.is_relative_to(each) for each in (root, *(parent / "blobs" for parent in root.parents))):
                raise Rejected(Reason.SPECIAL_FILE, "a link out of the set is not followed: copy the set with cp -rL")
        if not path.is_file():
            raise Rejected(Reason.SPECIAL_FILE, "a link to a folder or to nothing, a device or a pipe is not read")
        return path


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

    def open(self, name: str) -> BinaryIO:
        """Open a file; it reads ahead and may skip."""
        return cast(BinaryIO, _RemoteFile(self.fs, f"{self.path}/{name}"))

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

    def __init__(self, fs: Any, path: str) -> None:
        self._path = path
        with _remote_errors(path):
            self._file = fs.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")

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


def read_files(files: Files, names: Sequence[str], limit: int) -> Iterator[bytes | Rejected]:
    """Yield the bytes of files in order, remote ones several at once."""

    def read(name: str) -> bytes | Rejected:
        try:
            data = files.read(name, limit)
        except Rejected as error:
            return error.without_frames()
        return Rejected(Reason.IMAGE_TOO_LARGE, f"more than {limit} bytes") if data is None else data

    yield from map(read, names) if isinstance(files, LocalFiles) else ordered_map(read, names, _REQUESTS)
