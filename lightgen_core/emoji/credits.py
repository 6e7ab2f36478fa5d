"""Credits of the sets: whose images they are, under which licences, out of which packages."""

from collections.abc import Iterable
from dataclasses import dataclass

from lightgen_core.emoji.artists import ARTISTS, NOTO_BITMAPS, NOTO_OLD
from lightgen_core.emoji.packages import NAMES

_PREFIX = "zoo:emoji"


@dataclass(frozen=True)
class Credit:
    """An artist of a set. style: as its captions say; package: name and version on npm."""

    style: str
    artist: str
    licence: str
    package: str


def credits_of(locations: Iterable[str]) -> tuple[Credit, ...]:
    """Return the artists behind the locations of a recipe that name sets of emoji; none of other locations."""
    if not any(location.startswith(_PREFIX) for location in locations):
        return ()
    return tuple(
        Credit(artist.phrase, artist.name, artist.licence, artist.package.reference)
        for artist in (*ARTISTS, NOTO_OLD, NOTO_BITMAPS)
    )


def credits_page(credits: Iterable[Credit]) -> str:
    """Return credits as Markdown, to lie beside a student that learned the images."""
    rows = [f"| {credit.style} | {credit.artist} | {credit.licence} | {credit.package} |" for credit in credits]
    head = ["| style | artist | licence | npm package |", "| --- | --- | --- | --- |"]
    names = f"Captions: Unicode CLDR short names (Unicode licence), from {NAMES.reference} (MIT)."
    return "\n".join([*head, *rows, "", names, ""])
