"""The installed versions that decide an artifact's bytes, and the loggers that a run shows."""

from importlib.metadata import version

SOFTWARE = (
    "lightgen",
    "torch",
    "numpy",
    "pyarrow",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "faiss-cpu",
    "prefect",
)
"""Distributions that decide an artifact's bytes beside the recipe, and the one that runs its stages."""

LOGGERS = ("flows", "tasks", "lightgen_core", "storage", "lightgen")
"""Loggers of the program whose INFO lines a run shows."""


def software() -> dict[str, str]:
    """Return the installed version of each distribution in `SOFTWARE`."""
    return {name: version(name) for name in SOFTWARE}
