"""Names, groups and skin tones of emoji: the Unicode CLDR's, as `emojibase-data` holds them."""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
GROUPS = (
    "smileys",
    "people",
    "components",
    "animals and nature",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
)  # in the order of emojibase's numbers
CONCRETE = frozenset(GROUPS) - {"people", "components", "symbols", "flags"}
"""Groups of things that an image shows without letters or signs."""


@dataclass(frozen=True)
class Emoji:
    """One emoji of Unicode. code: its hexadecimal code points without variation selectors, joined by hyphens."""

    code: str
    label: str
    group: str

    @property
    def concept(self) -> str:
        """The code without skin tones."""
        return "-".join(part for part in self.code.split("-") if part not in TONES)

    @property
    def has_tone(self) -> bool:
        """True of an emoji with a skin tone."""
        return self.concept != self.code

    @property
    def slug(self) -> str:
        """The label in lower case and hyphens, as packages name their files."""
        return slugify(self.label)


def load_names(folder: Path) -> dict[str, Emoji]:
    """Return all emoji of a folder of emojibase-data by code."""
    return {emoji.code: emoji for emoji in _entries(json.loads((folder / "en" / "data.json").read_bytes()))}


def _entries(entries: list[dict]) -> Iterator[Emoji]:
    for entry in entries:
        group = GROUPS[entry["group"]] if "group" in entry else "other"
        for variant in (entry, *entry.get("skins", ())):
            label = variant["label"].translate({0x2018: "'", 0x2019: "'", 0x201C: None, 0x201D: None})
            yield Emoji(plain_code(variant["hexcode"]), label, group)


def plain_code(code: str) -> str:
    """Return a code in lower case, without variation selectors."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def slugify(text: str) -> str:
    """Return text as lower-case ASCII words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")
