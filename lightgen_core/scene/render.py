"""Renderer of the scene world: the teacher's images of meanings.

Three layouts set the difficulty. `composed` places objects as a photographer would (one in the centre, two side by
side or one above the other, three in a line, four in the corners); `grid` takes any cells of the grid; `free` any
places without overlap. Whatever the caption leaves open (free colours, size, exact place, background) is drawn from
the generator that the caller passes in.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.config import World
from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.shapes import coverage
from lightgen_core.scene.vocabulary import CLEARANCE, COLORS

Point = tuple[float, float]


@dataclass(frozen=True)
class PlacedObject:
    """One object to render; x, y and radius in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


def render(meaning: Meaning, world: World, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render exactly the objects of `meaning` on grey: (image_size, image_size, 3)."""
    side = world.image_size
    image = np.full((side, side, 3), 255 * rng.uniform(*world.background))
    for obj in arrange(meaning, world, rng):
        alpha = coverage(obj.shape, obj.x, obj.y, obj.radius, side, side)[..., None]
        image += alpha * (np.array(COLORS[obj.color]) - image)
    return np.rint(image).astype(np.uint8)


def arrange(meaning: Meaning, world: World, rng: np.random.Generator) -> list[PlacedObject]:
    """Sample the objects' colours, then their positions and sizes."""
    shapes = [o.shape for o in meaning.objects for _ in range(meaning.count)]
    # Counted objects share one colour, so that a student has one colour to agree on.
    colors = [o.color or str(rng.choice(world.colors)) for o in meaning.objects] * meaning.count
    positions = _free(meaning, world, rng) if world.layout == "free" else _in_cells(meaning, world, rng)
    return [PlacedObject(s, c, *position) for s, c, position in zip(shapes, colors, positions, strict=True)]


def _in_cells(meaning: Meaning, world: World, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return centres and radii, one object per chosen cell."""
    choose = _composed_cells if world.layout == "composed" else _any_cells
    cell = world.image_size / world.grid
    placed = []
    for column, row in choose(meaning, world.grid, rng):
        radius = min(cell * rng.uniform(*world.radius), cell / 2 - CLEARANCE)
        shift = min(world.jitter * cell, cell / 2 - CLEARANCE - radius)
        dx, dy = rng.uniform(-shift, shift, 2)
        placed.append((cell * (column + 0.5) + dx, cell * (row + 0.5) + dy, radius))
    return placed


def _composed_cells(meaning: Meaning, grid: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return cells (column, row): centre, line or corners; one of an even grid's two middles."""
    low, high = 0, grid - 1
    middle = (grid - int(rng.integers(2))) // 2 if grid % 2 == 0 else grid // 2
    total = meaning.count * len(meaning.objects)
    if total == 1:
        return [(middle, middle)]
    if total == 4:
        return [(low, low), (high, low), (low, high), (high, high)]
    along = [low, middle, high] if total == 3 else [low, high]
    if meaning.relation is None and total == 2 and rng.integers(2):
        along.reverse()  # which of two objects comes first says nothing
    upright = meaning.relation == "above" if meaning.relation else bool(rng.integers(2))
    return [(middle, step) if upright else (step, middle) for step in along]


def _any_cells(meaning: Meaning, grid: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Sample distinct cells (column, row); a relation must be clear."""
    total = meaning.count * len(meaning.objects)
    while True:
        cells = [(int(i) % grid, int(i) // grid) for i in rng.choice(grid * grid, total, replace=False)]
        if meaning.relation is None or _clearly(meaning.relation, *cells):
            return cells


def _clearly(relation: str, first: Point, second: Point) -> bool:
    """Return True if `first` is twice as far along the relation's axis as across."""
    across, down = second[0] - first[0], second[1] - first[1]
    along, aside = (across, down) if relation == "left of" else (down, across)
    return along > 0 and along >= 2 * abs(aside)


def _free(meaning: Meaning, world: World, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Sample centres and radii anywhere until the objects' boxes are apart."""
    side, total = world.image_size, meaning.count * len(meaning.objects)
    gap = 2 * CLEARANCE
    while True:
        radii = np.minimum(rng.uniform(*world.radius, total) * side / world.grid, side / world.grid / 2 - CLEARANCE)
        positions = rng.uniform(radii + CLEARANCE, side - radii - CLEARANCE, (2, total)).T
        apart = np.abs(positions[:, None] - positions[None]).max(-1) >= radii[:, None] + radii[None] + gap
        if not (apart | np.eye(total, dtype=bool)).all():
            continue
        if meaning.relation is None or _clearly(meaning.relation, positions[0], positions[1]):
            return [(float(x), float(y), float(r)) for (x, y), r in zip(positions, radii, strict=True)]
