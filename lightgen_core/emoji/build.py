"""Build the set: WebDataset files to train on, images held out, the truth about duplicates, and credits.

Held out is one style of every fifth of 620 concepts: training sees the concept in the other styles, and the style on
other concepts. Copies are put in by design and labelled: equal pixels, the same artwork from other files, skin tones.
"""

import hashlib
import io
import json
import logging
import os
import re
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from lightgen_core.emoji.artists import ARTISTS, NOTO_BITMAPS, NOTO_OLD, Artist, Drawing
from lightgen_core.emoji.names import CONCRETE, load_names
from lightgen_core.emoji.packages import NAMES, PACKAGES, PackagesUnavailable, fetch, move_unless_there

VERSION = "1"
"""Of this program; another one builds anew."""

SIDE = 128
"""Side of the images, px."""

SHARD = 1000
"""Images of a tar file."""

HELD_OUT_FROM = 620
"""Concepts of which every fifth misses one style."""

RENDERED_ALIKE = 8
"""Mean gap of two images' levels up to which they show one artwork."""

RENDERINGS, EQUAL_PAIRS, FAMILIES = 80, 40, 20
"""Copies put in: other renderings, pairs of equal pixels, families of skin tones (in two styles)."""

_COLORS = re.compile(r"\b(red|orange|yellow|green|light blue|blue|purple|brown|black|white|grey|pink)\b")
_HOURS = re.compile(r"(o'clock|-thirty)$")

SETS = {"emoji": 620, "emoji-all": 10_000, "emoji-small": 40}
"""Sets by name, with their numbers of concepts at most."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmojiImage:
    """A drawing, drawn."""

    drawing: Drawing
    image: Image.Image

    @property
    def pixels(self) -> str:
        """The sha256 of its pixels."""
        return hashlib.sha256(self.image.tobytes()).hexdigest()

    def fields(self) -> dict[str, str]:
        """Return the image's metadata, as they lie beside it."""
        drawing, artist = self.drawing, self.drawing.artist
        package = f"npm {artist.package.reference}"
        return {
            "key": drawing.key,
            "caption": drawing.caption,
            "label": drawing.emoji.label,
            "style": artist.style,
            "group": drawing.emoji.group,
            "code": drawing.emoji.code,
            "artist": artist.name,
            "licence": artist.licence,
            "package": package,
            "source": drawing.source,
        }


class Drawings:
    """All drawings of the artists, by style and code."""

    def __init__(self, cache: Path) -> None:
        names = load_names(fetch(NAMES, cache))
        self.by_style: dict[str, dict[str, Drawing]] = {}
        for artist in (*ARTISTS, NOTO_OLD, NOTO_BITMAPS):
            drawings: dict[str, Drawing] = {}
            for drawing in artist.read(artist, fetch(artist.package, cache), names, SIDE):
                drawings.setdefault(drawing.emoji.code, drawing)
            self.by_style[artist.style] = drawings

    def concepts(self, groups: Iterable[str]) -> list[str]:
        """Return the codes without skin tone that every artist of ARTISTS drew, in an order of their hashes."""
        styles = [self.by_style[artist.style] for artist in ARTISTS]
        everywhere = set.intersection(*map(set, styles))
        wanted = (styles[0][code].emoji for code in everywhere)
        return sorted((e.code for e in wanted if e.group in groups and not e.has_tone), key=_order)

    def of(self, code: str, artists: Sequence[Artist] = ARTISTS) -> list[Drawing]:
        """Return a code's drawings by these artists."""
        return [self.by_style[artist.style][code] for artist in artists if code in self.by_style[artist.style]]


def _order(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


@dataclass(frozen=True)
class Selection:
    """The drawings of a set: to train on, held out, and groups of keys by kind."""

    train: Sequence[EmojiImage]
    held_out: Sequence[EmojiImage]
    duplicates: Mapping[str, Sequence[Sequence[str]]]
    other_artists: Sequence[Sequence[str]]
    look_alikes: Sequence[Sequence[str]]


def select(drawings: Drawings, concepts: int, threads: int = 2) -> Selection:
    """Draw and choose the images: `concepts` things by every artist, one style of some held out, and copies."""
    codes = drawings.concepts(CONCRETE)[:concepts]
    held_out = {code: ARTISTS[_order("out" + code) % len(ARTISTS)].style for code in codes[:HELD_OUT_FROM:5]}
    wanted = [drawing for code in codes for drawing in drawings.of(code)]
    with ThreadPoolExecutor(threads) as pool:

        def draw(several: Iterable[Drawing]) -> Iterator[EmojiImage]:
            several = list(several)
            return map(EmojiImage, several, pool.map(lambda drawing: drawing.draw(), several))

        images = list(draw(wanted))
        train = [p for p in images if held_out.get(p.drawing.emoji.code) != p.drawing.artist.style]
        noto = {p.drawing.emoji.code: p for p in train if p.drawing.artist is ARTISTS[0]}
        bitmaps = draw(drawing for code in noto for drawing in drawings.of(code, [NOTO_BITMAPS]))
        renderings = [p for p in bitmaps if _gap(p.image, noto[p.drawing.emoji.code].image) <= RENDERED_ALIKE]
        old = draw(d for d in drawings.by_style[NOTO_OLD.style].values() if not d.emoji.has_tone)
        equal = sorted((group for group in _by_pixels(old) if len(group) == 2), key=lambda g: _order(g[0].drawing.key))
        families = [list(draw(family)) for family in _skin_tones(drawings)]
    copies = [*renderings[:RENDERINGS], *(p for group in equal[:EQUAL_PAIRS] for p in group)]
    train += [*copies, *(image for family in families for image in family)]
    train = sorted({image.drawing.key: image for image in train}.values(), key=lambda p: _order(p.drawing.key))
    artwork = [[noto[p.drawing.emoji.code].drawing.key, p.drawing.key] for p in renderings[:RENDERINGS]]
    duplicates = {
        "identical pixels": [[p.drawing.key for p in group] for group in _by_pixels(train) if len(group) > 1],
        "one artwork rendered otherwise": artwork,
        "skin tones": [[image.drawing.key for image in family] for family in families],
    }
    return Selection(
        train,
        [p for p in images if p.drawing.key not in {q.drawing.key for q in train}],
        duplicates,
        _groups(p for p in train if p.drawing.artist in ARTISTS and not p.drawing.emoji.has_tone),
        _look_alikes(p.drawing for p in train if p.drawing.artist in ARTISTS and not p.drawing.emoji.has_tone),
    )


def _gap(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of levels after white margins are cut off."""
    small = []
    for image in (one, other):
        box = image.convert("L").point(lambda level: 255 * (level < 247)).getbbox() or (0, 0, *image.size)
        small.append(np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BOX), np.float32))
    return float(np.abs(small[0] - small[1]).mean())


def _by_pixels(images: Iterable[EmojiImage]) -> list[list[EmojiImage]]:
    groups = defaultdict(list)
    for image in images:
        groups[image.pixels].append(image)
    return list(groups.values())


def _skin_tones(drawings: Drawings) -> Iterator[list[Drawing]]:
    """Yield families of one person or gesture in six tones, by two artists."""
    artists, families = ARTISTS[:2], defaultdict(list)
    for artist in artists:
        for drawing in drawings.by_style[artist.style].values():
            families[drawing.emoji.concept, artist.style].append(drawing)
    complete = [code for code, style in families if all(len(families.get((code, a.style), ())) == 6 for a in artists)]
    for code in sorted(set(complete), key=_order)[:FAMILIES]:
        yield from (families[code, artist.style] for artist in artists)


def _groups(images: Iterable[EmojiImage]) -> list[list[str]]:
    """Return the keys of each concept that several artists drew."""
    groups = defaultdict(list)
    for image in images:
        groups[image.drawing.emoji.code].append(image.drawing.key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _look_alikes(drawings: Iterable[Drawing]) -> list[list[str]]:
    """Return the keys of one artist's things that differ by a colour or an hour."""
    groups = defaultdict(list)
    for drawing in drawings:
        label = drawing.emoji.label
        bare = "clock" if _HOURS.search(label) else _COLORS.sub("*", label)
        if bare != label:
            groups[drawing.artist.style, bare].append(drawing.key)
    return [keys for keys in groups.values() if len(keys) > 1]


def built_set(name: str) -> Path:
    """Return the folder of a set, or with `NAME/PATH` a path in it; build it in the user's cache if it is not there.

    Raises:
        KeyError: no set of that name.
        PackagesUnavailable: a package cannot be fetched, or what draws is not installed.
    """
    name, _, inside = name.partition("/")
    if name not in SETS:
        raise KeyError(f"there is no set {name!r}; choose {' or '.join(SETS)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightgen" / "emoji"
    folder = cache / f"{name}-{_digest()}"
    if not folder.is_dir():
        logger.info("building %s in %s", name, folder)
        build(folder, cache / "packages", SETS[name])
    return folder / inside if inside else folder


def _digest() -> str:
    """Return a digest of what decides a set's bytes: packages, this program, and what draws."""
    try:
        drawn_by = metadata.version("resvg-py")
    except metadata.PackageNotFoundError as error:
        raise PackagesUnavailable(
            "resvg-py, which draws the images, is missing: pip install 'lightgen[pictures]'"
        ) from error
    parts = [*(package.reference for package in PACKAGES), f"resvg-py {drawn_by}", f"pillow {PIL.__version__}", VERSION]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def build(folder: Path, cache: Path, concepts: int) -> None:
    """Write a set into a folder that is not there yet.

        train/*.tar             WebDataset: KEY.png and KEY.json
        held-out/*.png, *.txt   what training never sees, and captions
        held-out/prompts.jsonl  the same captions as prompts
        duplicates.json         groups of keys by kind
        CREDITS.md              artists, licences, packages

    Raises:
        PackagesUnavailable: a package cannot be fetched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    selection = select(Drawings(cache), concepts)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / "set"
        for part in ("train", "held-out"):
            (new / part).mkdir(parents=True)
        for number in range(0, len(selection.train), SHARD):
            _write_tar(new / "train" / f"{number // SHARD:04}.tar", selection.train[number : number + SHARD])
        for image in selection.held_out:
            image.image.save(new / "held-out" / f"{image.drawing.key}.png")
            (new / "held-out" / f"{image.drawing.key}.txt").write_text(image.drawing.caption)
        prompts = [_prompt(image.drawing) for image in selection.held_out]
        (new / "held-out" / "prompts.jsonl").write_text("".join(f"{prompt}\n" for prompt in prompts))
        (new / "duplicates.json").write_text(json.dumps(_truth(selection), indent=0))
        (new / "CREDITS.md").write_text(_credits(selection))
        move_unless_there(new, folder)
    logger.info("%d images to train on, %d held out, in %s", len(selection.train), len(selection.held_out), folder)


def _write_tar(path: Path, images: Sequence[EmojiImage]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image in images:
            encoded = io.BytesIO()
            image.image.save(encoded, "PNG")
            fields = json.dumps(image.fields(), ensure_ascii=False).encode()
            for suffix, content in (("json", fields), ("png", encoded.getvalue())):
                member = tarfile.TarInfo(f"{image.drawing.key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _prompt(drawing: Drawing) -> str:
    return json.dumps({"caption": drawing.caption, "category": drawing.artist.style, "key": drawing.key})


def _truth(selection: Selection) -> dict[str, object]:
    return {
        "duplicates": selection.duplicates,
        "not duplicates: one concept, other artists": selection.other_artists,
        "look-alikes with another caption (colour, hour)": selection.look_alikes,
    }


def _credits(selection: Selection) -> str:
    """Return a table of artists with licences, packages and numbers of images."""
    counts = Counter(image.drawing.artist for image in (*selection.train, *selection.held_out))
    rows = [
        f"| {artist.style} | {artist.name} | {artist.licence} | {artist.package.reference} | {count} |"
        for artist, count in counts.most_common()
    ]
    head = ["| style | artist | licence | npm package | images |", "| --- | --- | --- | --- | --- |"]
    names = f"Captions: Unicode CLDR short names (Unicode licence), from {NAMES.reference} (MIT)."
    return "\n".join([*head, *rows, "", names, ""])
