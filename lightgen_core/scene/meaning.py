"""Meaning of a caption, independent of its phrasing.

Two captions that say the same object have equal meanings: the split holds meanings out, not sentences, and the
detector scores meanings. A meaning names *all* objects of its image; colours it does not name are free.
"""

from dataclasses import dataclass

from lightgen_core.scene.vocabulary import CATEGORIES, COLORS, NUMBERS, RELATIONS, SHAPES, plural, with_article

NUMBER_WORDS = {value: word for word, value in NUMBERS.items()}


@dataclass(frozen=True, order=True)
class Object:
    """One object of a scene; `color` None leaves the colour free."""

    shape: str
    color: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"found shape {self.shape!r}, expected one of {', '.join(SHAPES)}")
        if self.color is not None and self.color not in COLORS:
            raise ValueError(f"found color {self.color!r}, expected None or one of {', '.join(COLORS)}")

    @property
    def phrase(self) -> str:
        """Return the noun without article: "circle" or "red circle"."""
        return self.shape if self.color is None else f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Meaning:
    """Scene in one of GenEval's categories, normalised to compare and hash.

    Attributes:
        category: one of `CATEGORIES`.
        objects: one object, or two of different shapes. Sorted where the order says nothing; for `position` the
            first is the one on the left or above.
        count: how many of the only object there are (`counting`; 1 elsewhere).
        relation: `position`: where the first object is, seen from the second; kept as "left of" or "above".

    Raises:
        ValueError: the parts do not make a meaning of that category.
    """

    category: str
    objects: tuple[Object, ...]
    count: int = 1
    relation: str | None = None

    def __post_init__(self) -> None:
        self._check()
        if self.relation in ("right of", "below"):
            object.__setattr__(self, "objects", self.objects[::-1])
            object.__setattr__(self, "relation", RELATIONS[self.relation])
        elif self.relation is None:
            object.__setattr__(self, "objects", tuple(sorted(self.objects, key=lambda o: SHAPES.index(o.shape))))

    def _check(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"found category {self.category!r}, expected one of {', '.join(CATEGORIES)}")
        pair = self.category in ("two_object", "position", "color_attr")
        if len({o.shape for o in self.objects}) != len(self.objects) or len(self.objects) != 1 + pair:
            found = ", ".join(o.phrase for o in self.objects) or "none"
            wanted = "two objects of different shapes" if pair else "one object"
            raise ValueError(f"{self.category}: found objects {found}; expected {wanted}")
        colored = self.category in ("colors", "color_attr")
        if any((o.color is not None) != colored for o in self.objects):
            raise ValueError(f"{self.category}: expected {'a' if colored else 'no'} colour with every object")
        if self.category == "color_attr" and self.objects[0].color == self.objects[1].color:
            raise ValueError(f"color_attr: found {self.objects[0].color} twice; expected two different colours")
        if (self.count in NUMBER_WORDS) != (self.category == "counting") or self.count not in (1, *NUMBER_WORDS):
            wanted = f"one of {', '.join(map(str, NUMBER_WORDS))}" if self.category == "counting" else "1"
            raise ValueError(f"{self.category}: found count {self.count}, expected {wanted}")
        if (self.relation in RELATIONS) != (self.category == "position") or self.relation not in (None, *RELATIONS):
            wanted = f"one of {', '.join(RELATIONS)}" if self.category == "position" else "none"
            raise ValueError(f"{self.category}: found relation {self.relation!r}, expected {wanted}")

    @property
    def canonical(self) -> str:
        """Return the plainest caption; equal exactly where meanings are equal."""
        if self.category == "counting":
            return f"{NUMBER_WORDS[self.count]} {plural(self.objects[0].shape)}"
        return f" {self.relation or 'and'} ".join(with_article(o.phrase) for o in self.objects)


def excludes(a: Meaning, b: Meaning) -> bool:
    """Return True if no image can be right for both meanings.

    They share one if they name the same number of each shape, no shape in two colours, and no opposite relations: "A
    left of B" and "A above B" do, where A is up and to the left.
    """
    if {o.shape: a.count for o in a.objects} != {o.shape: b.count for o in b.objects}:
        return True
    colors = {o.shape: o.color for o in b.objects}
    if any(o.color and colors[o.shape] and o.color != colors[o.shape] for o in a.objects):
        return True
    return a.relation is not None and a.relation == b.relation and a.objects != b.objects
