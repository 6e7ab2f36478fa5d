"""Where the zoo's models lie. Free of torch."""

from importlib import resources

PREFIX = "zoo:"
MODELS = ("autoencoder", "clip", "t5")


class ModelNotFound(ValueError):
    """A reference to a model that is not there."""


def resolve(reference: str) -> str:
    """The packaged folder of a zoo reference ("zoo:autoencoder"); any other reference unchanged.

    Raises:
        ModelNotFound: a zoo reference to a model that the zoo does not have.
    """
    if not reference.startswith(PREFIX):
        return reference
    name = reference.removeprefix(PREFIX)
    if name not in MODELS:
        wanted = ", ".join(PREFIX + model for model in MODELS)
        raise ModelNotFound(f"found model {reference!r}; the zoo has {wanted}; other models go by folder or hub id")
    return str(resources.files("lightgen_core.zoo") / name)
