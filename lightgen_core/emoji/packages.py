"""The npm packages that the set is drawn from, fetched once into a cache."""

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


class PackagesUnavailable(RuntimeError):
    """A package that cannot be fetched, with what to do about it."""


@dataclass(frozen=True)
class Package:
    """A release on npm."""

    name: str
    version: str

    @property
    def reference(self) -> str:
        """The package as npm's command line takes it."""
        return f"{self.name}@{self.version}"

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the release."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package("@iconify-json/noto", "1.2.9")
NOTO_OLD = Package("@iconify-json/noto-v1", "1.2.5")
NOTO_BITMAPS = Package("emoji-datasource-google", "16.0.0")
TWEMOJI = Package("@iconify-json/twemoji", "1.2.5")
FLUENT_FLAT = Package("@iconify-json/fluent-emoji-flat", "1.2.6")
FLUENT_3D = Package("@lobehub/fluent-emoji-3d", "1.1.0")
NAMES = Package("emojibase-data", "17.0.0")
PACKAGES = (NOTO, NOTO_OLD, NOTO_BITMAPS, TWEMOJI, FLUENT_FLAT, FLUENT_3D, NAMES)


def fetch(package: Package, cache: Path) -> Path:
    """Return the folder of a package's files, fetched by npm unless it is there.

    A release's archive that lies in the cache already, put there by hand, is unpacked as it is.

    Raises:
        PackagesUnavailable: npm is not installed, or does not get the package.
    """
    folder = cache / package.archive.removesuffix(".tgz")
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        archive = cache / package.archive
        if not archive.is_file():
            archive = _pack(package, Path(scratch))
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        move_unless_there(Path(scratch) / "package", folder)
    return folder


def move_unless_there(made: Path, folder: Path) -> None:
    """Give a complete folder its name, unless another process was first; readers never see a part of it."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _pack(package: Package, into: Path) -> Path:
    npm, advice = shutil.which("npm"), f"or put its archive, {package.archive}, into {into.parent}"
    if npm is None:
        raise PackagesUnavailable(f"{package.reference} comes from npm, which is not installed: install npm, {advice}")
    command = [npm, "pack", "--silent", "--pack-destination", str(into), package.reference]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (into / package.archive).is_file():
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no archive"]
        raise PackagesUnavailable(f"npm pack {package.reference}: {reason[0]}; connect to a registry, {advice}")
    return into / package.archive
