"""The drawings of each artist: images out of a package, with captions, keys and credits."""

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from lightgen_core.emoji import packages
from lightgen_core.emoji.names import Emoji, plain_code
from lightgen_core.emoji.packages import Package


@dataclass(frozen=True)
class Artist:
    """A style of images, and where they come from. phrase: the caption's words for the style."""

    style: str
    phrase: str
    name: str
    licence: str
    package: Package
    read: Callable[["Artist", Path, Mapping[str, Emoji], int], Iterator["Drawing"]]


@dataclass(frozen=True)
class Drawing:
    """An image that can be drawn: one emoji by one artist."""

    artist: Artist
    emoji: Emoji
    source: str
    draw: Callable[[], Image.Image]

    @property
    def key(self) -> str:
        """Name of the image, unlike that of all others."""
        return f"{self.artist.style}_{self.emoji.slug}"

    @property
    def caption(self) -> str:
        """The emoji's CLDR name and the artist's style."""
        return f"{self.emoji.label}, {self.artist.phrase}"


def _icons(artist: Artist, folder: Path, names: Mapping[str, Emoji], side: int) -> Iterator[Drawing]:
    """Yield the drawings of a package of Iconify, whose icons are bodies of SVG documents."""
    icons, codes = (json.loads((folder / name).read_bytes()) for name in ("icons.json", "chars.json"))
    by_icon, by_slug = defaultdict(list), {emoji.slug: code for code, emoji in names.items()}
    for code, icon in codes.items():
        by_icon[icon].append(plain_code(code))
    for name, icon in icons["icons"].items():
        code = next((code for code in by_icon[name] if code in names), by_slug.get(name))
        if code is None or icon.get("hidden"):
            continue
        box = [icon.get(part, icons.get(part, default)) for part, default in _VIEW_BOX.items()]
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        view = " ".join(map(str, box))
        svg = f'{head} width="{side}" height="{side}" viewBox="{view}">{icon["body"]}</svg>'
        yield Drawing(artist, names[code], name, partial(_draw_svg, svg, side))


_VIEW_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}


def _draw_svg(svg: str, side: int) -> Image.Image:
    import resvg_py

    return on_white(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)), side)


def _files(pattern: str) -> Callable[[Artist, Path, Mapping[str, Emoji], int], Iterator[Drawing]]:
    """Return a reader of packages with a file for each emoji, named by its code."""

    def read(artist: Artist, folder: Path, names: Mapping[str, Emoji], side: int) -> Iterator[Drawing]:
        for path in sorted(folder.glob(pattern)):
            code = plain_code(path.stem.replace("_", "-"))
            if code in names:
                yield Drawing(artist, names[code], path.name, partial(_draw_file, path, side))

    return read


def _draw_file(path: Path, side: int) -> Image.Image:
    return on_white(path.read_bytes(), side)


def on_white(encoded: bytes, side: int) -> Image.Image:
    """Decode an image and fit it into a white square of a side, px."""
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    scale = side / max(image.size)
    if image.size != (side, side):
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2), image)
    return square


ARTISTS = (
    Artist("noto", "Noto emoji style", "Google", "Apache-2.0", packages.NOTO, _icons),
    Artist("twemoji", "Twemoji style", "Twitter, Inc and other contributors", "CC-BY-4.0", packages.TWEMOJI, _icons),
    Artist("fluent-emoji-flat", "flat Fluent style", "Microsoft", "MIT", packages.FLUENT_FLAT, _icons),
    Artist("fluent-3d", "3D rendered style", "Microsoft", "MIT", packages.FLUENT_3D, _files("assets/*.webp")),
)
"""The styles that a student learns."""

NOTO_OLD = Artist("noto-v1", "old Noto emoji style", "Google", "Apache-2.0", packages.NOTO_OLD, _icons)
NOTO_BITMAPS = Artist(
    "noto-64px", "Noto emoji style", "Google", "Apache-2.0", packages.NOTO_BITMAPS, _files("img/google/64/*.png")
)
