"""A vision-language model: in this process, or at the address that the settings name."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lightgen_core.vlm.config import VlmConfig
from tasks.config.settings import Settings
from tasks.context.context import StageContext

if TYPE_CHECKING:
    import torch

    from lightgen_core.vlm.vlm import Vlm


def load_vlm(ctx: StageContext, config: VlmConfig, stack: ExitStack) -> "Vlm":
    """Return a stage's model; what it has answered is kept in the scratch folder until its shard is written."""
    return open_vlm(config, ctx.settings, ctx.device, stack, ctx.scratch)


def open_vlm(
    config: VlmConfig,
    settings: Settings,
    device: Callable[[], "torch.device"],
    stack: ExitStack,
    cache: Path | None = None,
) -> "Vlm":
    """Return a model on a device, or one behind LIGHTGEN_VLM_URL, whose connections the stack closes."""
    if config.backend == "transformers":
        from lightgen_core.vlm.hf import HFVlm

        return HFVlm.load(config, device=device())
    from lightgen_core.endpoint import Endpoint
    from lightgen_core.vlm.endpoint import EndpointVlm

    key, rate = settings.vlm_key.get_secret_value(), settings.endpoint_requests_per_minute
    endpoint = stack.enter_context(Endpoint(settings.vlm_url, key, requests_per_minute=rate))
    return EndpointVlm(endpoint, config, settings.endpoint_concurrency, cache)
