"""Words of the scene world, with their colours and sizes."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 225),
    "yellow": (250, 220, 20),
    "purple": (130, 30, 175),
    "orange": (255, 130, 0),
    "cyan": (10, 195, 230),
    "pink": (255, 105, 190),
    "brown": (125, 70, 25),
    "black": (15, 15, 15),
}
"""8-bit sRGB of every colour word; far apart in direction from any background grey of 0.75 to 1."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "diamond", "ring")
"""Shape words; `lightgen_core.scene.shapes` draws them."""

CATEGORIES: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six task categories (Ghosh et al. 2023), in its order."""

NUMBERS: dict[str, int] = {"two": 2, "three": 3, "four": 4}
"""Number words of the counting category."""

RELATIONS: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""Every relation with its inverse: "A left of B" says what "B right of A" says."""

MIN_RADIUS = 3.2
"""Smallest radius of an object, px: stars, diamonds and circles of 3.0 px are now and then the same few pixels."""

CLEARANCE = 0.75
"""Least distance of an object from the edge of its cell, px, so that neighbours never touch."""


def plural(shape: str) -> str:
    """Return the plural of a shape word."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def with_article(phrase: str) -> str:
    """Prefix the indefinite article: "a circle", "an orange circle"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
