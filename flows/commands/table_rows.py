"""Rows of `lightgen table`: what papers print, and what `lightgen eval` and runs have measured."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from flows.commands.evaluate_kept import ABOUT, RESULTS
from flows.errors import UserError
from lightgen_core.evaluation.geneval_prompts import SIZES
from lightgen_core.evaluation.published import CATEGORIES, PublishedRow, PublishedTable, published

SCORES = ("overall", *CATEGORIES)
SCENE_MARK = "scene world, not comparable"
FORM = "prompts of GenEval's form, not its authors'"
_ALL_PROMPTS = sum(SIZES.values())
_RESULT = frozenset({"model", "benchmark", "judge", "prompts", "scores"})


@dataclass(frozen=True)
class TableRow:
    """One row. What a source does not say, or nobody measured, is None.

    params: number; images: number of training images; px: side of the evaluated images; rewritten: whether prompts
    were rewritten; scores: value, and where measured low and high; device_days: of training; matches: the source of
    `lightgen eval` that scored it, or with which it can be scored.
    """

    model: str
    kind: Literal["published", "measured"]
    benchmark: str
    scores: Mapping[str, Mapping[str, float] | None]
    params: float | None = None
    images: float | None = None
    px: int | None = None
    steps: int | None = None
    rewritten: bool | None = None
    device_days: float | None = None
    device: str | None = None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    judge: str | None = None
    matches: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for `--json`, with titles and addresses of its sources."""
        listed = published().sources
        return asdict(self) | {"sources": [listed[name].model_dump() for name in self.sources]}


def published_rows(table: PublishedTable) -> list[TableRow]:
    """Return the rows that papers print."""
    return [_published_row(table, row) for row in table.rows]


def _published_row(table: PublishedTable, row: PublishedRow) -> TableRow:
    model = published().models[row.model]
    scores = {name: None if value is None else {"value": value} for name, value in table.scores(row).items()}
    misprint = f"as printed; {row.misprint}" if row.misprint else ""
    return TableRow(
        row.name or model.name,
        "published",
        table.benchmark,
        scores,
        params=None if row.params is None else row.params * 1e9,
        images=None if row.images is None else row.images * 1e6,
        px=row.px or table.px,
        steps=row.steps,
        rewritten=row.rewritten,
        device_days=row.device_days,
        device=row.device or None,
        sources=table.sources_of(row),
        notes=tuple(filter(None, (misprint, row.note))),
        matches=model.run.source if model.run else None,
    )


@dataclass(frozen=True)
class Measured:
    """Rows of one result; `where` names it in messages."""

    where: str
    rows: list[TableRow] = field(default_factory=list)


def is_evaluation(name: str) -> bool:
    """Return whether a name is a folder that `lightgen eval -o` began."""
    folder = Path(name).expanduser()
    return any((folder / file).is_file() for file in ("scores.json", ABOUT))


def evaluated_rows(name: str, table: PublishedTable) -> Measured:
    """Return the row of a folder that `lightgen eval -o` has written.

    Raises:
        UserError: the evaluation is not finished, not of this form, or nobody judged.
    """
    folder = Path(name).expanduser()
    result = _read_scores(folder)
    if result["scores"] is None:
        raise UserError(f"{folder} has no scores: nobody judges images of the benchmark {result['benchmark']}")
    rows = _lines(folder / RESULTS)
    files = [row["filename"] for row in rows if row["filename"]]
    about = json.loads((folder / ABOUT).read_text())["pictures"] if (folder / ABOUT).is_file() else {}
    px, count = _side(folder / files[0]) if files else None, len({row["prompt"] for row in rows})
    form = (FORM,) if result["benchmark"] == "geneval" and result["prompts"].endswith("of the benchmark") else ()
    return Measured(
        name,
        [
            TableRow(
                result["model"],
                "measured",
                result["benchmark"],
                result["scores"],
                px=px,
                steps=about.get("steps"),
                rewritten=None if result["model"].startswith("endpoint:") else False,
                notes=(*form, *notes_of(result["benchmark"], table, px, count)),
                judge=result["judge"],
                matches=result["model"],
            )
        ],
    )


def notes_of(benchmark: str, table: PublishedTable, px: int | None, prompts: int) -> tuple[str, ...]:
    """Return where a measured row differs from the table's protocol: size of the images, number of prompts."""
    if benchmark != table.benchmark:
        return ()
    size = f"images of {px} px, not {table.px}" if px and table.px and px != table.px else ""
    few = f"{prompts} of {_ALL_PROMPTS} prompts" if prompts != _ALL_PROMPTS else ""
    return tuple(filter(None, (size, few)))


def _read_scores(folder: Path) -> dict[str, Any]:
    try:
        result = json.loads((folder / "scores.json").read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds an evaluation without scores.json, so an unfinished one; the command that began it, "
            f"lightgen eval ... -o {folder}, finishes it"
        ) from error
    except ValueError as error:
        raise UserError(f"{folder / 'scores.json'} is damaged ({error}); `lightgen eval` writes it anew") from error
    if not isinstance(result, dict) or not result.keys() >= _RESULT:
        raise UserError(
            f"{folder / 'scores.json'} is not of `lightgen eval -o`: it lacks "
            f"{', '.join(sorted(_RESULT - set(result)))}"
        )
    return result


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _side(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return image.width
