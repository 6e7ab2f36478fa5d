"""Time estimate of an ablation, before it runs: what is missing, at speeds measured in the store or given."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.ablation import AblationRequest
from flows.commands.compute_here import has_nvidia_device, measure_cores
from flows.commands.estimate import Rates, StageCost, stage_costs
from flows.plan import PlannedStage, Planner
from lightgen_core.report.formats import format_duration
from storage.manifest import Manifest
from storage.store import Store
from tasks.context.explain import MAX_MANIFESTS, newest_manifests


@dataclass
class Speeds:
    """Seconds of a stage: from a given throughput, from artifacts of the store, or from its FLOPs.

    given: items per second by stage. tflops: TFLOP/s that are reached.
    """

    store: Store
    given: Mapping[str, float]
    tflops: float
    _manifests: dict[str, list[Manifest]] = field(default_factory=dict)

    def seconds(self, planned: PlannedStage, items: float, flops: float | None) -> tuple[float | None, str]:
        """Return a stage's seconds, None if unknown, and where its speed is from."""
        name = planned.stage.name
        if name in self.given:
            return items / self.given[name], "given"
        if rate := self._measured(planned):
            return items / rate, "measured"
        if flops is None:
            return None, "unknown"
        return flops / (self.tflops * 1e12), "flops"

    def _measured(self, planned: PlannedStage) -> float | None:
        """Return items per second of the largest comparable artifact among the newest of a stage."""
        name = planned.stage.name
        if name not in self._manifests:
            self._manifests[name] = newest_manifests(self.store, name, MAX_MANIFESTS)
        model = planned.recipe.pretrain.model_dump(mode="json", include={"model", "head"})
        found = []
        for manifest in self._manifests[name]:
            own = manifest.config.get("pretrain", model)
            if all(own.get(part) == model[part] for part in model) and (items := _items(manifest)) > 0:
                found.append((items, items / max(manifest.timings["seconds"], 1e-3)))
        return max(found)[1] if found else None


def estimate_ablation(request: AblationRequest, rates: Rates | None) -> dict[str, Any]:
    """Estimate the time of an ablation's missing stages on one device.

    Args:
        rates: throughput by stage, TFLOP/s and the share of it that is reached; without TFLOP/s (None) those of a
            matrix product on this machine's cores, or, where it has an NVIDIA device, of `Rates`.
    """
    rates = rates or Rates()
    speeds = Speeds(request.store, rates.throughput, rates.tflops * rates.mfu)
    seconds: defaultdict[str, float] = defaultdict(float)
    unknown, sources, missing, seen = set(), set(), 0, set()
    for run in request.runs:
        costs = stage_costs(run.recipe)
        for planned in run.stages.values():
            if planned.artifact.path in seen or planned.artifact.check().state == "done":
                continue
            seen.add(planned.artifact.path)
            missing += 1
            cost = costs[planned.stage.name]
            share = _share(run, planned)
            taken, source = speeds.seconds(planned, cost.items * share, _flops(cost, share))
            sources.add(source)
            if taken is None:
                unknown.add(planned.stage.name)
            else:
                seconds[planned.stage.name] += taken
    return {
        "stages_of_all_runs": request.stages_of_runs,
        "different": len(request.chosen) - 1,
        "to_make": missing,
        "seconds": sum(seconds.values()),
        "seconds_by_stage": dict(seconds),
        "not_counted": sorted(unknown),
        "speeds": sorted(sources - {"unknown"}),
    }


def default_rates(throughput: Mapping[str, float], tflops: float | None, mfu: float) -> Rates:
    """Return rates with a device's default, or where there is none with what the cores reach in a matrix product."""
    if tflops is None and not has_nvidia_device():
        return Rates(throughput, measure_cores(), mfu)
    return Rates(throughput, **({} if tflops is None else {"tflops": tflops}), mfu=mfu)


def describe_ablation_estimate(estimate: Mapping[str, Any]) -> str:
    """Return an estimate as a line."""
    shared = (
        f"{estimate['stages_of_all_runs']} stages of all runs are {estimate['different']} different ones, "
        f"{estimate['to_make']} of them to make"
    )
    if not estimate["to_make"]:
        return shared
    words = {"given": "given speeds", "measured": "speeds of this store's artifacts", "flops": "FLOPs"}
    by_stage = ", ".join(f"{name} {format_duration(each)}" for name, each in estimate["seconds_by_stage"].items())
    basis = " and ".join(words[name] for name in estimate["speeds"]) or "nothing"
    lacking = f"; not counted: {', '.join(estimate['not_counted'])}" if estimate["not_counted"] else ""
    # FLOPs leave loading and writing out, and those are most of a small stage.
    about = "at least" if lacking or "flops" in estimate["speeds"] else "about"
    return f"{shared}: {about} {format_duration(estimate['seconds'])} by {basis} ({by_stage}{lacking})"


def _share(run: Planner, planned: PlannedStage) -> float:
    """Return the part of a stage's items in a whole run that one artifact has: a round, or an evaluation's students."""
    if planned.stage.name == "evaluation":
        return len(planned.inputs) / (2 if run.recipe.dpo.control == "none" else 3)
    return 1 / sum(other.stage.name == planned.stage.name for other in run.stages.values())


def _flops(cost: StageCost, share: float) -> float | None:
    return None if cost.flops is None else cost.flops * share


def _items(manifest: Manifest) -> float:
    """Return the items that an artifact's stage has worked on, as `StageCost` counts them."""
    counts, config = manifest.counts, manifest.config
    if manifest.stage == "pretrain":
        return counts["steps"] * config["pretrain"]["batch_size"]
    if manifest.stage == "dpo":
        return 2 * counts["steps"] * config["dpo"]["batch_size"]
    if manifest.stage in ("pairs", "evaluation"):
        return sum(file.rows for file in manifest.files if file.name.startswith("samples"))
    return counts["rows"] - manifest.reused
