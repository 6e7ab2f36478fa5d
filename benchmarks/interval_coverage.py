"""Coverage of the 95 % intervals of scores, by simulation: the share of them that hold the truth.

python -m benchmarks.interval_coverage --repetitions 2000

Verdicts are drawn from a logistic model whose means are known: a category's rate, how good a seed's student is, how
hard a prompt is, and how a student and a prompt go together. Images of one prompt share all of these.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.interleaved import table
from lightgen_core.intervals import Interval, bootstrap_mean, crossed_mean, crossed_rate, macro_mean, wilson_interval

Array = npt.NDArray[np.float64]

DEMO_RATES = {"single_object": 0.97, "two_object": 0.90, "counting": 0.83, "colors": 0.98, "position": 0.94}
DEMO_RATES |= {"color_attr": 0.35}
"""Rates of the demo's pre-trained student (README.md)."""
_FLATTENING = 0.346
"""(16 sqrt(3) / 15 pi)^2: a logit is flattened by sqrt(1 + this x variance) when averaged over a normal deviation."""
GAIN = 0.5
"""Lead of the better one of two students, in logits: on these rates 0.02 to 0.08."""


@dataclass(frozen=True)
class World:
    """Prompts of each category, images of each, and the standard deviations of seed, prompt and interaction, logits."""

    prompts: int = 80
    images: int = 2
    seed: float = 0.0
    prompt: float = 1.5
    interaction: float = 0.7

    def truth(self, gain: float = 0.0) -> dict[str, float]:
        """Return each category's mean over seeds and prompts, by Gauss-Hermite quadrature."""
        spread = np.sqrt(self.seed**2 + self.prompt**2 + self.interaction**2)
        points, weights = np.polynomial.hermite_e.hermegauss(80)
        rates = _sigmoid(self.base[:, None] + gain + spread * points) @ weights / weights.sum()
        return dict(zip(DEMO_RATES, rates.tolist(), strict=True))

    @property
    def base(self) -> Array:
        """Each category's logit (categories,), such that its rate is about the demo's."""
        rates = np.array([*DEMO_RATES.values()])
        return np.log(rates / (1 - rates)) * np.sqrt(1 + _FLATTENING * (self.prompt**2 + self.interaction**2))

    def draw(self, rng: np.random.Generator, seeds: int, gains: tuple[float, ...] = (0.0,)) -> list[Array]:
        """Return verdicts (categories, seeds, prompts, images) of a student for each gain, on the same prompts."""
        base = self.base[:, None, None]
        prompt = rng.normal(0, self.prompt, (len(base), 1, self.prompts))
        verdicts = []
        for gain in gains:
            seed = rng.normal(0, self.seed, (1, seeds, 1))
            both = rng.normal(0, self.interaction, (len(base), seeds, self.prompts))
            rate = _sigmoid(base + gain + seed + prompt + both)
            verdicts.append((rng.random((*rate.shape, self.images)) < rate[..., None]).astype(np.float64))
        return verdicts

    @property
    def groups(self) -> list[int]:
        """The prompt of each image."""
        return np.repeat(np.arange(self.prompts), self.images).tolist()


Method = Callable[[World, Array, int], Mapping[str, Interval]]
"""From verdicts (categories, seeds, prompts, images) and the number of the repetition to intervals by name."""


def bootstrap(world: World, verdicts: Array, repetition: int) -> dict[str, Interval]:
    """Resample prompts; the seeds' images of one prompt go together."""
    seeds = verdicts.shape[1]
    groups = world.groups * seeds
    values = {name: (each.reshape(-1), groups) for name, each in zip(DEMO_RATES, verdicts, strict=True)}
    by_category = {name: bootstrap_mean(*pair, repetition, resamples=300) for name, pair in values.items()}
    return {"overall": macro_mean(values, repetition, resamples=300), **by_category}


def bootstrap_overall(world: World, verdicts: Array, repetition: int) -> dict[str, Interval]:
    """Resample prompts, overall alone."""
    groups = world.groups * verdicts.shape[1]
    values = {name: (each.reshape(-1), groups) for name, each in zip(DEMO_RATES, verdicts, strict=True)}
    return {"overall": macro_mean(values, repetition, resamples=300)}


def wilson_over_images(world: World, verdicts: Array, repetition: int) -> dict[str, Interval]:
    """Take images of one prompt for independent, as no score here does."""
    return {name: wilson_interval(int(each.sum()), each.size) for name, each in zip(DEMO_RATES, verdicts, strict=True)}


def crossed(world: World, verdicts: Array, repetition: int) -> dict[str, Interval]:
    """Cross seeds and prompts."""
    groups = world.groups
    values = {name: (each.reshape(len(each), -1), groups) for name, each in zip(DEMO_RATES, verdicts, strict=True)}
    return {"overall": crossed_mean(values)}


def crossed_categories(world: World, verdicts: Array, repetition: int) -> dict[str, Interval]:
    """Cross seeds and prompts of each category."""
    groups = world.groups
    paired = verdicts.min() < 0
    found = {}
    for name, each in zip(DEMO_RATES, verdicts, strict=True):
        values = each.reshape(len(each), -1)
        found[name] = crossed_mean({name: (values, groups)}) if paired else crossed_rate(values, groups)
    return found


def coverage(
    world: World, method: Method, *, seeds: int = 1, paired: bool = False, repetitions: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the share of repetitions in which each interval holds the truth, and its mean width, by name.

    paired: of the difference of two students on the same prompts.
    """
    rng = np.random.default_rng(seed)
    truth = world.truth()
    if paired:
        truth = {name: value - truth[name] for name, value in world.truth(GAIN).items()}
    truth = {"overall": float(np.mean([*truth.values()])), **truth}
    hits, width = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for repetition in range(repetitions):
        drawn = world.draw(rng, seeds, (0.0, GAIN) if paired else (0.0,))
        verdicts = drawn[1] - drawn[0] if paired else drawn[0]
        for name, interval in method(world, verdicts, repetition).items():
            hits[name] += interval.low <= truth[name] <= interval.high
            width[name] += interval.high - interval.low
    return {name: (hits[name] / repetitions, width[name] / repetitions) for name in truth if width[name]}


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def one_seed(sizes: tuple[int, ...], repetitions: int) -> str:
    """Return the coverage of intervals of one student, overall and by category."""
    rows = []
    for prompts in sizes:
        for name, methods, paired in (
            ("bootstrap over prompts", (bootstrap,), False),
            ("bootstrap, paired difference", (bootstrap,), True),
            ("Wilson over images", (wilson_over_images,), False),
            ("crossed, Wilson by effective number", (crossed, crossed_categories), False),
            ("crossed, paired difference", (crossed, crossed_categories), True),
        ):
            found: dict[str, tuple[float, float]] = {}
            for method in methods:
                found |= coverage(World(prompts), method, paired=paired, repetitions=repetitions)
            cells = [f"{found[each][0]:.3f}" if each in found else "" for each in ("overall", *DEMO_RATES)]
            rows.append((str(6 * prompts), name, *cells))
    return table(("prompts", "one seed", "overall", *DEMO_RATES), rows)


def several_seeds(sizes: tuple[int, ...], repetitions: int) -> str:
    """Return the coverage of intervals over seeds and prompts, and of the bootstrap over prompts alone."""
    rows = []
    for prompts in sizes:
        for seeds in (3, 5):
            for deviation in (0.0, 0.1, 0.2, 0.4):
                world, cells = World(prompts, seed=deviation), []
                for paired in (False, True):
                    overall = coverage(world, crossed, seeds=seeds, paired=paired, repetitions=repetitions)["overall"]
                    each = coverage(
                        world, crossed_categories, seeds=seeds, paired=paired, repetitions=repetitions // 4
                    ).values()
                    naive = coverage(
                        world, bootstrap_overall, seeds=seeds, paired=paired, repetitions=repetitions // 5
                    )["overall"]
                    lowest, highest = min(each)[0], max(each)[0]
                    cells += [f"{overall[0]:.3f}", f"{lowest:.3f} to {highest:.3f}", f"{naive[0]:.3f}"]
                rows.append((str(6 * prompts), str(seeds), f"{deviation:g}", *cells))
    kinds = ("overall", "categories", "bootstrap over prompts")
    return table(("prompts", "seeds", "seed deviation", *kinds, *(f"paired {kind}" for kind in kinds)), rows)


def main() -> None:
    """Print a table of one seed, and one of several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[80, 160], help="prompts of each category")
    arguments = parser.parse_args()
    sizes = tuple(arguments.prompts)
    print(one_seed(sizes, arguments.repetitions), flush=True)
    print(several_seeds(sizes, arguments.repetitions))


if __name__ == "__main__":
    main()
