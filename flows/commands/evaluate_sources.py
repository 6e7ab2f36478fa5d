"""Sources of evaluated images by the prefix of their name: a student, a pipeline, images that exist, an endpoint.

Another kind is a class with the members of `Source` and a line in `SOURCES`. Opening one checks its name and loads no
torch; `load` loads what generates.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flows.checkpoint import Checkpoint, find_student
from flows.commands.evaluate_images import ImageSource
from flows.commands.evaluate_options import EvaluationOptions
from flows.commands.evaluate_request import Generate, Request
from flows.commands.options import drop_unset
from flows.errors import UserError
from flows.folders import require_student
from lightgen_core.config import SamplerConfig
from lightgen_core.encoders.model_ref import parse_model_ref
from lightgen_core.teachers.config import DiffusersConfig, ImageEndpointConfig
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.digests import weights_digest

if TYPE_CHECKING:
    import torch

_STUDENT_BATCH, _PIPELINE_BATCH, _ENDPOINT_BATCH = 64, 4, 16  # images
_OPENAI = "api.openai.com"


class Source(Protocol):
    """A source of images for prompts."""

    batch_size: int
    checkpoint: Checkpoint | None
    """The student, where its lineage tells what it was trained on."""

    def identity(self) -> Mapping[str, Any]:
        """Return what decides the images beside prompts and seeds, as JSON."""

    def load(self, device: "torch.device") -> Generate:
        """Load what generates. Raises UserError, OSError or ValueError where the name holds no such model."""


class StudentSource:
    """A student of ours: a folder, an exported one, STAGE/KEY, a recipe, or a model of the hub."""

    batch_size = _STUDENT_BATCH

    def __init__(self, name: str, options: EvaluationOptions, recipe: Recipe) -> None:
        if options.size is not None:
            raise UserError(
                "--size goes with diffusers: and endpoint:; a student's images have the size of its training"
            )
        self.checkpoint: Checkpoint | None = find_student(name, options.store_uri)
        self._folder = self.checkpoint.folder
        require_student(self._folder)
        self._sampler = recipe.sampler if options.recipe else None
        self._changes = drop_unset(iterations=options.steps, guidance_scale=options.cfg)

    def identity(self) -> Mapping[str, Any]:
        """Return the weights and what is changed of their sampler."""
        sampler = self._sampler.model_dump(mode="json") if self._sampler else {}
        return {"weights": weights_digest(str(self._folder.absolute())), "sampler": sampler | self._changes}

    def load(self, device: "torch.device") -> Generate:
        """Load the student."""
        from lightgen_core.sampling.load import load_text_to_image

        student = load_text_to_image(self._folder, device)
        config = SamplerConfig.model_validate((self._sampler or student.sampler).model_dump() | self._changes)
        return lambda requests: student.sample(*_captions_and_seeds(requests), sampler=config).images


class PipelineSource:
    """A text-to-image pipeline of diffusers, loaded as `synthesis` does."""

    batch_size = _PIPELINE_BATCH
    checkpoint: Checkpoint | None = None

    def __init__(self, name: str, options: EvaluationOptions, recipe: Recipe) -> None:
        parse_model_ref(name)
        self._name, self._options = name, options

    def identity(self) -> Mapping[str, Any]:
        """Return the name, weights of a folder, steps, guidance, and the size if one is given."""
        options = self._options
        sampler = {"steps": options.steps, "guidance_scale": options.cfg} | drop_unset(size=options.size)
        return {"weights": weights_digest(self._name), "model": self._name, **sampler}

    def load(self, device: "torch.device") -> Generate:
        """Load the pipeline. Raises UserError if it takes no text, steps or guidance."""
        from lightgen_core.teachers.base import TeacherError
        from lightgen_core.teachers.diffusers_teacher import DiffusersTeacher

        dtype: Literal["float32", "bfloat16"] = "float32" if device.type == "cpu" else "bfloat16"
        config = DiffusersConfig(
            model=self._name,
            dtype=dtype,
            steps=self._options.steps,
            guidance_scale=self._options.cfg,
            height=self._options.size,
            width=self._options.size,
            batch_size=self.batch_size,
        )
        settings = Settings()
        try:
            teacher = DiffusersTeacher.load(config, device, settings.offload, settings.compile_teacher)
        except TeacherError as error:
            raise UserError(str(error)) from error
        return lambda requests: teacher.generate(*_captions_and_seeds(requests))


class EndpointSource:
    """An OpenAI-compatible images endpoint: MODEL at LIGHTGEN_IMAGES_URL, URL, or URL#MODEL.

    Size, format and further fields of a request are the recipe's `synthesis.endpoint`, where it has one. Otherwise the
    server chooses the size unless one is given, and seeds are sent, but not to OpenAI, whose models refuse them.
    """

    batch_size = _ENDPOINT_BATCH
    checkpoint: Checkpoint | None = None

    def __init__(self, name: str, options: EvaluationOptions, recipe: Recipe) -> None:
        if options.steps is not None or options.cfg is not None:
            raise UserError("an endpoint takes neither --steps nor --cfg; set them where it runs")
        address, _, model = name.partition("#") if "://" in name else (Settings().images_url, "", name)
        self._url, given = address, recipe.synthesis.endpoint
        model = model or _only_model(address)
        base = ImageEndpointConfig(model=model, request_size=None, send_seed=_OPENAI not in address)
        size = {} if options.size is None else {"request_size": f"{options.size}x{options.size}"}
        config = given.model_copy(update={"model": model}) if given and options.recipe else base
        self._config = config.model_copy(update=size)

    def identity(self) -> Mapping[str, Any]:
        """Return the address and the fields of a request."""
        return {"url": self._url, **self._config.model_dump(mode="json")}

    def load(self, device: "torch.device") -> Generate:
        """Return the client. Raises UserError for an address or key that cannot be used."""
        from lightgen_core.endpoint import Endpoint, EndpointError
        from lightgen_core.teachers.endpoint import EndpointTeacher

        settings = Settings()
        key, rate = settings.images_key.get_secret_value(), settings.endpoint_requests_per_minute
        try:
            endpoint = Endpoint(self._url, key, requests_per_minute=rate)
        except EndpointError as error:
            raise UserError(str(error)) from error
        teacher = EndpointTeacher(self._config, endpoint, settings.endpoint_concurrency)
        return lambda requests: teacher.generate(*_captions_and_seeds(requests))


SOURCES: Mapping[str, Callable[[str, EvaluationOptions, Recipe], Source]] = {
    "diffusers:": PipelineSource,
    "images:": ImageSource,
    "endpoint:": EndpointSource,
    "": StudentSource,
}
"""Kinds of sources by the prefix of their name; the last, without one, takes every other name."""


def open_source(name: str, options: EvaluationOptions, recipe: Recipe) -> Source:
    """Return the source of a name. Raises UserError or ModelNotFound if there is nothing of that name."""
    prefix = next(prefix for prefix in SOURCES if name.startswith(prefix))
    return SOURCES[prefix](name.removeprefix(prefix), options, recipe)


def _captions_and_seeds(requests: Sequence[Request]) -> tuple[list[str], list[int]]:
    return [request.caption for request in requests], [request.seed for request in requests]


def _only_model(url: str) -> str:
    """Return the one model that a server lists. Raises UserError if it lists several, none, or does not answer."""
    import httpx2

    key = Settings().images_key.get_secret_value()
    try:
        answer = httpx2.get(f"{url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
        names = [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{url}/models names no model ({type(error).__name__}); give endpoint:{url}#MODEL") from error
    if len(names) != 1:
        raise UserError(
            f"{url} has {len(names)} models: {', '.join(names[:8]) or 'none'}; give endpoint:{url}#MODEL with one"
        )
    return names[0]
