"""Check the data that a recipe reads: what later stages will refuse, by a sample of the rows and images."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from flows.errors import UnknownModelSize
from flows.sizes import codec_stride
from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.dedup import lexical_dedup
from lightgen_core.captioning.readers import BadRow, CaptionFileError, read_captions
from lightgen_core.captioning.select import Caption
from lightgen_core.images.buckets import bucket_shapes, nearest_bucket
from lightgen_core.images.sample import ImageSetError
from lightgen_core.images.survey import Survey, survey
from lightgen_core.teachers.config import ImageSetConfig
from lightgen_core.teachers.image_set import open_configured_set
from storage.plural import pluralize
from tasks.config.recipe import Recipe
from tasks.config.sources import WeightedCaptions, WeightedTeacher

SAMPLES, IMAGES = 2000, 100
"""Rows that are read, and images that are decoded; of a smaller set all."""
_NAMES_SHOWN = 3


class DataFinding(NamedTuple):
    """A finding: its check, "ok", "note" or "missing", and the text."""

    check: str
    state: str
    found: str


class Wanted(NamedTuple):
    """Rows that a source is to give, and the words for them."""

    rows: int
    said: str


def check_data(recipe: Recipe) -> list[DataFinding]:
    """Return the findings about the captions and images that a recipe reads."""
    rows: list[DataFinding] = []
    for origin in recipe.captions.origins:
        wanted = _wanted("captions.count", recipe.captions.count, origin, recipe.captions.sources)
        if origin.file:
            rows += _check_captions(recipe, origin.file, wanted if origin.source == "file" else None)
    for each in recipe.synthesis.each:
        wanted = _wanted("synthesis.count", recipe.synthesis.count, each, recipe.synthesis.teachers)
        if each.teacher == "files" and each.files:
            rows += _check_images(recipe, each.files, wanted)
    return rows


def _wanted(field: str, count: int, source: object, several: Sequence[WeightedCaptions | WeightedTeacher]) -> Wanted:
    """Return how many rows a source is to give, and the words for it; of several sources its part by weight."""
    for each in several:
        if each is source:
            part = round(count * each.weight / sum(other.weight for other in several))
            return Wanted(part, f"{each.name}'s part of {field} is {part}")
    return Wanted(count, f"{field} is {count}")


def _check_captions(recipe: Recipe, source: CaptionFile, wanted: Wanted | None) -> list[DataFinding]:
    """Return the findings about a file of captions; wanted: None where a language model rewrites them."""
    try:
        found = list(islice(read_captions(source), SAMPLES + 1))
    except CaptionFileError as error:
        return [DataFinding("captions", "missing", str(error))]
    complete = len(found) <= SAMPLES
    captions = [row for row in found[:SAMPLES] if isinstance(row, Caption)]
    bad = [row for row in found[:SAMPLES] if isinstance(row, BadRow)]
    rows = [_summary("captions", " with ".join(source.locations), len(captions), "caption", complete)]
    rows += _by_reason("captions", [(row.location, row.reason) for row in bad], len(captions) + len(bad))
    longest = recipe.tokens.max_text_tokens
    cut = [caption.text for caption in captions if len(caption.text.split()) > longest]
    if cut:
        text = (
            f"{_of(cut, captions)} have more than {longest} words, and are cut at tokens.max_text_tokens: {_quote(cut)}"
        )
        rows.append(DataFinding("captions", "note", text))
    rows += _check_duplicates(recipe, captions, complete, wanted)
    return rows


def _check_duplicates(
    recipe: Recipe, captions: Sequence[Caption], complete: bool, wanted: Wanted | None
) -> list[DataFinding]:
    """Say how many captions the stage `captions` will drop, and with them their images."""
    config, rows = recipe.captions, []
    distinct = list({caption.text: caption for caption in captions}.values())
    if repeated := len(captions) - len(distinct):
        text = f"{repeated} of {len(captions)} repeat an earlier one; their images share its caption"
        rows.append(DataFinding("captions", "note", text))
    rejections = lexical_dedup(config.near_duplicate, recipe.seed, within_meaning=False)(distinct) if distinct else []
    dropped = [caption.text for caption, rejection in zip(distinct, rejections, strict=True) if rejection]
    if dropped:
        text = f"{_of(dropped, captions)} are near duplicates (captions.near_duplicate), and dropped with their images"
        rows.append(DataFinding("captions", "note", f"{text}: {_quote(dropped)}"))
    left = len(distinct) - len(dropped)
    if wanted and left > wanted.rows:
        text = f"{wanted.said}: of {left}{'' if complete else ' and more'} the others are not taken"
        rows.append(DataFinding("captions", "note", f"{text}, nor their images"))
    if wanted and complete and left < wanted.rows:
        rows.append(DataFinding("captions", "note", f"{wanted.said}; there are {left}"))
    return rows


def _check_images(recipe: Recipe, config: ImageSetConfig, wanted: Wanted) -> list[DataFinding]:
    try:
        image_set = open_configured_set(config)
        result = survey(image_set, config.max_pixels, samples=SAMPLES, images=IMAGES)
    except ImageSetError as error:
        return [DataFinding("images", "missing", str(error))]
    seen = len(result.samples) + len(result.bad_samples)
    where = f"{' with '.join(config.locations)}, read as {image_set.form}"
    rows = [_summary("images", where, len(result.samples), "sample", result.complete)]
    rows += _by_reason("images", [(each.key, str(each.error.reason)) for each in result.bad_samples], seen)
    unreadable = [(each.key, str(each.error.reason)) for each in result.unreadable]
    rows += _by_reason("images", unreadable, result.decoded)
    if result.samples and not result.sizes:
        rows.append(DataFinding("images", "missing", f"none of {result.decoded} images can be read"))
    if result.complete and 0 < len(result.samples) < wanted.rows:
        text = f"{wanted.said}; the set has {len(result.samples)}"
        rows.append(DataFinding("images", "note", text))
    validation = recipe.pretrain.validation
    if validation and result.complete and not recipe.synthesis.teachers and len(result.samples) <= validation.rows:
        text = (
            f"pretrain.validation.rows is {validation.rows}; the set has {len(result.samples)}, and none would be left"
        )
        rows.append(DataFinding("images", "missing", f"{text} to train on"))
    return [*rows, *_check_sizes(recipe, config, result)]


def _check_sizes(recipe: Recipe, config: ImageSetConfig, result: Survey) -> list[DataFinding]:
    rows = []
    wanted = max((config.size or 0, *recipe.tokens.sizes))
    ratios, shapes = recipe.tokens.buckets or ("1:1",), _bucket_shapes(recipe, wanted)
    buckets = [nearest_bucket(ratios, height, width) for _, height, width in result.sizes]
    small = [
        f"{sample.key} ({width} x {height})"
        for (sample, height, width), bucket in zip(result.sizes, buckets, strict=True)
        if height < shapes[bucket][0] or width < shapes[bucket][1]
    ]
    if small:
        than = "their bucket at " if recipe.tokens.buckets else ""
        text = f"{_of(small, result.sizes)} are smaller than {than}{wanted} px, and enlarged: {_some(small)}"
        rows.append(DataFinding("images", "note", text))
    if recipe.tokens.buckets and buckets:
        counts = ", ".join(f"{buckets.count(number)} of {ratio}" for number, ratio in enumerate(ratios))
        rows.append(DataFinding("images", "note", f"tokens.buckets of {pluralize(len(buckets), 'image')}: {counts}"))
    sizes = sorted({(height, width) for _, height, width in result.sizes})
    if len(sizes) > 1 and not wanted:
        shown = _some([f"{width} x {height}" for height, width in sizes])
        text = f"{len(sizes)} sizes ({shown}), which tokens refuses: set synthesis.files.size or tokens.sizes"
        rows.append(DataFinding("images", "missing", text))
    sides = {(wanted, wanted)} if wanted else set(sizes)
    with suppress(UnknownModelSize):  # of a codec that is not here yet
        side = codec_stride(recipe.tokens.codec) * recipe.tokens.patch
        if odd := [f"{width} x {height}" for height, width in sorted(sides) if height % side or width % side]:
            text = f"sides of {_some(odd)} px are no multiples of {side}, as tokens needs: set synthesis.files.size"
            rows.append(DataFinding("images", "missing", f"{text} or tokens.sizes to one"))
    return rows


def _bucket_shapes(recipe: Recipe, size: int) -> Sequence[tuple[int, int]]:
    """Return height and width of each bucket at a size, px; of a square where these are none or not known."""
    ratios = recipe.tokens.buckets
    with suppress(UnknownModelSize, ValueError):  # of a codec that is not here yet; of the recipe, which says it itself
        if ratios:
            return bucket_shapes(ratios, size, codec_stride(recipe.tokens.codec) * recipe.tokens.patch)
    return [(size, size)] * max(1, len(ratios))


def _summary(check: str, where: str, count: int, what: str, complete: bool) -> DataFinding:
    text = f"{pluralize(count, what)} {'in' if complete else 'of a larger set, looked at in'} {where}"
    return DataFinding(check, "ok" if count else "missing", text)


def _by_reason(check: str, bad: Iterable[tuple[str, str]], total: int) -> list[DataFinding]:
    """Return a note for each reason, with names and counts."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in bad:
        by_reason.setdefault(reason, []).append(name)
    return [
        DataFinding(check, "note", f"{len(names)} of {total} {reason}: {_some(names)}")
        for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def _of(some: Sequence[object], every: Sequence[object]) -> str:
    return f"{len(some)} of {len(every)}"


def _quote(texts: Sequence[str]) -> str:
    return _some([repr(text[:60] + "..." if len(text) > 60 else text) for text in texts])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
