"""Model card and data card of an exported student, written from the manifests that it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flows.commands.console import format_bytes
from flows.commands.licences import Source
from flows.commands.lineage import Lineage
from storage.manifest import Manifest
from storage.plural import pluralize

PAPER = "https://arxiv.org/abs/2503.08619"
_UNKNOWN_ORIGIN = "Not known: the student was exported from a folder without a manifest beside it.\n"
CATEGORIES = ("overall", "single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class CardData:
    """Everything on the cards.

    name: what the examples load: a folder's name, or org/name on the hub. info: of the student (`StudentInfo`).
    size: (height, width) px. inside: frozen components in the folder. licence: identifier of the hub.
    """

    name: str
    licence: str
    info: Mapping[str, Any]
    parameters: int
    size: tuple[int, int]
    inside: Sequence[str]
    sources: Sequence[Source]
    lineage: Lineage | None


def model_card(data: CardData) -> str:
    """Return README.md: metadata for the hub, use, licences, scores, cost, origin."""
    return "\n".join([_metadata(data), *_summary(data), *_use(data), *_licences(data), *_scores(data), *_origin(data)])


def data_card(data: CardData) -> str:
    """Return DATA_CARD.md: where captions and images come from, and what was dropped."""
    title, lineage = f"# Data of {data.name}\n", data.lineage
    if lineage is None:
        return f"{title}\n{_UNKNOWN_ORIGIN}"
    sources = [source for source in data.sources if source.role.startswith(("captions", "images"))]
    counted = "Written from the manifests of the artifacts; rows are counted, not estimated.\n"
    parts = (_sources(sources), _captions(lineage), _images(lineage), _dropped(lineage), _preferences(lineage))
    return "\n".join([title, counted, *(line for part in parts for line in part)])


def _metadata(data: CardData) -> str:
    fields: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "license": data.licence}
    if data.licence == "other":
        fields |= {"license_name": "see-licences", "license_link": "README.md"}
    fields |= {"language": ["en"], "tags": ["text-to-image", "lightgen", "distillation", "masked-autoregressive"]}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _summary(data: CardData) -> Iterator[str]:
    yield f"# {data.name}\n"
    height, width = data.size
    yield (
        f"A text-to-image student of {data.parameters:,} parameters for images of {height} x {width} px, distilled "
        f"with LightGen ([paper]({PAPER})): a masked autoregressive transformer with a diffusion head, on the "
        "latents of a frozen autoencoder and the states of a frozen text encoder.\n"
    )
    if data.lineage and (report := data.lineage.manifests.get("report")):
        yield f"Recipe: `{data.lineage.recipe}`, {report.config['purpose'] or 'no purpose stated'}.\n"
        if report.config["smoke_test"]:
            yield "**This recipe is too small to learn: the student shows that the pipeline works, nothing else.**\n"


def _use(data: CardData) -> Iterator[str]:
    yield f"""## Use

The package `lightgen` is needed: the pipeline's class is part of it, and `pipeline.py` here only imports it.

```
lightgen sample {data.name} "a prompt" --seed 0 -o out
```

```python
from lightgen_core.sampling.pipeline import LightGenPipeline

pipeline = LightGenPipeline.from_pretrained("{data.name}")
pipeline("a prompt", seed=0).images[0].save("out.png")
```

`DiffusionPipeline.from_pretrained("{data.name}", trust_remote_code=True)` gives the same pipeline. An image depends
on prompt and seed alone; command and pipeline give the same bytes on one kind of machine.
"""
    outside = {"vae": data.info["codec"], "text_encoder": data.info["text_encoder"]}
    if named := [f"`{name}`" for part, name in outside.items() if part not in data.inside]:
        yield f"Loaded from the hub with the first image, and not part of this folder: {', '.join(named)}.\n"


def _licences(data: CardData) -> Iterator[str]:
    yield "## Licences\n"
    yield "What the student was made from. Terms of a teacher, a data set or a frozen model can bind its users.\n"
    yield from _sources(data.sources)
    if open_ones := dict.fromkeys(source.name for source in data.sources if not source.permissive):
        yield f"Read these terms before use, since they are not known to allow any use: {', '.join(open_ones)}.\n"


def _sources(sources: Sequence[Source]) -> Iterator[str]:
    yield "| part | source | licence |\n| --- | --- | --- |"
    for source in sources:
        name = f"[{source.name}]({source.page})" if source.page else source.name
        yield f"| {source.role} | {name} | {source.licence} |"
    yield ""


def _scores(data: CardData) -> Iterator[str]:
    evaluation = data.lineage.manifests.get("evaluation") if data.lineage else None
    yield "## Scores\n"
    if evaluation is None or data.lineage is None:
        yield "Not evaluated.\n"
        return
    metrics, student = evaluation.metrics, data.lineage.student
    scores = (metrics["scores"] or {}).get(student)
    prompts, images = evaluation.counts["prompts"], evaluation.config["evaluation"]["images"]
    if scores:
        yield f"{prompts:,} captions, {pluralize(images, 'image')} of each, judged by {metrics['judge']};"
        yield "95 % intervals, bootstrapped over captions for the overall.\n"
        yield "| category | score | interval | images |\n| --- | --- | --- | --- |"
        for category in CATEGORIES:
            if score := scores.get(category):
                interval = f"{score['low']:.3f} to {score['high']:.3f}"
                yield f"| {category} | {score['value']:.3f} | {interval} | {score['n']:,} |"
        yield ""
    else:
        yield f"{prompts:,} captions; nobody judged the images.\n"
    if clip := metrics.get("clip_score", {}).get(student):
        yield f"Cosine of image and caption in CLIP: {clip['value']:.3f} ({clip['low']:.3f} to {clip['high']:.3f}).\n"


def _origin(data: CardData) -> Iterator[str]:
    yield "## Origin and cost\n"
    if data.lineage is None:
        yield _UNKNOWN_ORIGIN
        return
    labelled = data.lineage.ordered
    manifests = list(labelled.values())
    yield "| stage | key | made | rows | bytes | seconds | device seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    yield from (_stage_row(label, manifest) for label, manifest in labelled.items())
    seconds = sum(manifest.timings["seconds"] for manifest in manifests)
    device = sum(manifest.device_seconds for manifest in manifests)
    yield f"| all | | | | | {seconds:,.1f} | {device:,.1f} |\n"
    if data.lineage.lost:
        yield f"No longer in the store, so not counted: {', '.join(data.lineage.lost)}.\n"
    made = manifests[-1]
    software, host = (", ".join(f"{name} {value}" for name, value in of.items()) for of in (made.software, made.host))
    yield f"Made with {software} on {host}.\n"
    yield "`lineage.json` holds every stage's configuration; [DATA_CARD.md](DATA_CARD.md) describes the data.\n"


def _stage_row(label: str, manifest: Manifest) -> str:
    size = format_bytes(sum(file.bytes for file in manifest.files))
    cells = [label, f"`{manifest.key}`", manifest.created_at[:10], f"{manifest.counts['rows']:,}", size]
    return f"| {' | '.join(cells)} | {manifest.timings['seconds']:,.1f} | {manifest.device_seconds:,.1f} |"


def _captions(lineage: Lineage) -> Iterator[str]:
    if (captions := lineage.manifests.get("captions")) is None:
        return
    topics = captions.metrics["captions_by_topic"]
    dropped = captions.metrics.get("dropped_by_reason", {})
    rows = pluralize(captions.counts["rows"], "caption")
    yield f"## Captions\n\n{rows} of {pluralize(len(topics), 'topic')}.\n"
    yield from _shares(captions.metrics.get("captions_by_source", {}))
    yield from _reasons("Dropped", dropped, captions.counts["dropped"])


def _images(lineage: Lineage) -> Iterator[str]:
    if (synthesis := lineage.manifests.get("synthesis")) is None:
        return
    yield f"## Images\n\n{pluralize(synthesis.counts['rows'], 'image')}.\n"
    yield from _shares(synthesis.metrics.get("images_by_teacher", {}))
    yield from _reasons("In quarantine", synthesis.metrics["quarantine"], synthesis.counts["quarantined"])
    for kind, written in synthesis.metrics.get("recaptions", {}).items():
        yield f"{written['captions']:,} {kind} captions were written for them.\n"
        yield from _reasons("Of no use", written["reasons"], sum(written["reasons"].values()))


def _dropped(lineage: Lineage) -> Iterator[str]:
    if (dedup := lineage.manifests.get("dedup")) is None:
        return
    pretrain = lineage.manifests.get("pretrain")
    held_out = pretrain.counts.get("held_out", 0) if pretrain else 0
    trained, rows = dedup.counts["kept"] - held_out, dedup.counts["rows"]
    aside = f", {held_out:,} are put aside for the held-out loss of pre-training" if held_out else ""
    yield f"## Duplicates\n\n{trained:,} of {rows:,} images are trained on{aside}.\n"
    yield from _reasons("Dropped", dedup.metrics["reasons"], dedup.counts["dropped"])
    if recall := dedup.metrics["certificate"]["recall"]:
        low, high = recall["low"], recall["high"]
        yield f"Recall of the search against brute force: {recall['value']:.3f} ({low:.3f} to {high:.3f}).\n"


def _preferences(lineage: Lineage) -> Iterator[str]:
    for label, pairs in lineage.ordered.items():
        if pairs.stage != "pairs":
            continue
        teacher, own = pairs.counts["teacher"], pairs.counts["best_worst"]
        yield f"## Preference {label}\n"
        yield f"{teacher:,} with the teacher's image as winner, {own:,} among the student's own.\n"


def _shares(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield what each of several sources gave."""
    if total := sum(counts.values()):
        listed = "; ".join(f"{name}: {count:,} ({count / total:.0%})" for name, count in counts.items())
        yield f"By source: {listed}.\n"


def _reasons(title: str, reasons: Mapping[str, int], total: int) -> Iterator[str]:
    listed = "; ".join(f"{reason}: {count:,}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
    yield f"{title}: {total:,}{f' ({listed})' if listed else ''}.\n"
