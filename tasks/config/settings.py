"""Settings of a run's place and resources, from the environment; they never enter an artifact's key."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import Field, HttpUrl, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from lightgen_core.config import ParallelConfig


class InvalidSettings(ValueError):
    """A variable `LIGHTGEN_*` has an invalid value; the message names it and the expected one."""


class Settings(BaseSettings):
    """Settings from `LIGHTGEN_*`; for example `LIGHTGEN_STORE=/data/lightgen`."""

    model_config = SettingsConfigDict(
        env_prefix="LIGHTGEN_",
        env_nested_delimiter="__",
        env_ignore_empty=True,  # LIGHTGEN_STORE= would else be this folder
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    store: str = Field("lightgen-store", description="folder or fsspec URL that holds the artifacts")
    store_url: HttpUrl | None = Field(
        None,
        description="address under which LIGHTGEN_STORE is served, by a web server of files, by a bucket itself, or "
        "by `lightgen browse`: pages of the Prefect UI then link to the report; none: they name the command to open it",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...; auto takes a GPU where there is one")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="what makes the shards of a stage, and trains: processes of this machine, or the Ray cluster at "
        "RAY_ADDRESS (without it, one that is started here); needs lightgen[ray]",
    )
    workers: int = Field(1, ge=1, description="engine local: processes that make shards at once; 1: this one")
    shard_cpus: float = Field(1, gt=0, description="engine ray: CPUs that a worker occupies; 2 halves the workers")
    shard_gpus: float | None = Field(
        None,
        ge=0,
        description="engine ray: GPUs that a worker occupies; 0.5 puts two on each; none: 1 for a stage that works on "
        "the device, where the cluster has GPUs and LIGHTGEN_DEVICE is not cpu, else 0",
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="CPU threads of a stage; those of a training are shared by its processes, but each process that "
        "makes shards has as many. On a CPU, equal bytes need equal threads, so give it where they matter. Left out: "
        "all cores, which local workers share; on Ray shard_cpus, rounded down",
    )
    spin_count: int | None = Field(
        None,
        ge=0,
        description="turns of OpenMP's waiting loop until a thread sleeps: more pay on idle cores, fewer on those that "
        "others use; none: 50000, or 0 where at the start more than twice as many processes as cores want to run. "
        "OMP_WAIT_POLICY or GOMP_SPINCOUNT, where set, count instead",
    )
    device_limit: str | None = Field(
        None, description="Prefect's global concurrency limit that a stage on the device holds; none: it does not wait"
    )
    retries: int = Field(3, ge=0, description="attempts after a failure that may pass: network, device taken")
    retry_seconds: float = Field(30, gt=0, description="wait before the first of them; doubled for each further one")
    compile_head: bool = Field(False, description="sample through a compiled head: a minute once, then faster steps")
    cuda_graphs: bool = Field(
        False, description="on a GPU, record each iteration of sampling and replay it as one launch"
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="teacher's weights kept in main memory until they are needed, by model or by layer"
    )
    endpoint_concurrency: int = Field(8, ge=1, description="requests to an endpoint under way at once")
    endpoint_requests_per_minute: float | None = Field(None, gt=0, description="rate limit; none: no limit")
    scratch: str = Field(
        "~/.cache/lightgen",
        description="local folder for a remote store's copies and for the checkpoints of a training: a killed one goes "
        "on only where it finds them, so the folder must outlive the machine or be shared",
    )
    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description='what shows curves and scores beside TensorBoard: LIGHTGEN_TRACKERS=\'["wandb", "mlflow"]\''
    )
    tracking_folder: str | None = Field(
        None, description="TensorBoard's files; none: `tracking` in a local store, for a remote one in `scratch`"
    )
    prices: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="money of an hour, for the ledger: of a device by the beginning of its name, of a CPU core as cpu: "
        'LIGHTGEN_PRICES=\'{"NVIDIA H100": 2.5, "cpu": 0.04}\'; none: no money is counted',
    )
    train: ParallelConfig = Field(
        default_factory=ParallelConfig,
        description="how training is laid out: LIGHTGEN_TRAIN__PROCESSES=2, LIGHTGEN_TRAIN__PARALLEL=fsdp and so on; "
        "processes left out: one, but on a CPU, where a student of at most 256 wide is pre-trained on 50,000 images or "
        "more, one for each thread, up to four",
    )
    llm_url: str = Field("http://localhost:8000/v1", description="address of the language model that writes captions")
    llm_key: SecretStr = Field(SecretStr(""), description="its key; kept out of manifests, logs and errors")
    vlm_url: str = Field(
        "http://localhost:8000/v1", description="address of the vision-language model that judges or captions images"
    )
    vlm_key: SecretStr = Field(SecretStr(""), description="its key; kept out of manifests, logs and errors")
    images_url: str = Field("https://api.openai.com/v1", description="address of the images endpoint that is a teacher")
    images_key: SecretStr = Field(SecretStr(""), description="its key; kept out of manifests, logs and errors")

    serve_key: SecretStr = Field(
        SecretStr(""), description="key that `lightgen serve-model`, `gallery` and `browse` want from their clients"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except (SettingsError, ValidationError) as error:
            raise InvalidSettings(_explain(error)) from error

    def for_worker(self, workers: int, threads: int) -> Self:
        """Return the settings of one of several workers.

        Together they keep to an endpoint's limits. `threads` applies unless a number is set.
        """
        per_minute = self.endpoint_requests_per_minute
        changes: dict[str, float | None] = {
            "endpoint_concurrency": max(1, self.endpoint_concurrency // workers),
            "endpoint_requests_per_minute": per_minute and per_minute / workers,
        }
        if "threads" not in self.model_fields_set:
            changes["threads"] = max(1, threads)
        return self.model_copy(update=changes)


def _explain(error: SettingsError | ValidationError) -> str:
    """Return each wrong environment variable with its value and the expected one."""
    if isinstance(error, SettingsError):
        return f"{error}: a setting of several values is JSON, for example LIGHTGEN_TRACKERS='[\"wandb\"]'"
    lines = []
    for fault in error.errors():
        path = [part for part in fault["loc"] if isinstance(part, str)]
        name, new = "__".join(path).upper(), ParallelConfig.renamed.get(path[-1])
        what = f"it is now called {new.upper()}" if new else fault["msg"][:1].lower() + fault["msg"][1:]
        lines.append(f"LIGHTGEN_{name}: found {fault['input']!r}; {what}")
    return "\n".join(lines)
