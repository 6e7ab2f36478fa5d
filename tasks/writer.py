"""A language model that writes: in this process, or at the address that the settings name."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lightgen_core.captioning.config import WriterConfig
from lightgen_core.captioning.parse import Captioner
from tasks.config.settings import Settings
from tasks.context.context import StageContext

if TYPE_CHECKING:
    import torch


def load_writer(ctx: StageContext, config: WriterConfig, stack: ExitStack) -> Captioner:
    """Return a stage's model; what it has answered is kept in the scratch folder until its shard is written."""
    return open_writer(config, ctx.settings, ctx.device, stack, ctx.scratch)


def open_writer(
    config: WriterConfig,
    settings: Settings,
    device: Callable[[], "torch.device"],
    stack: ExitStack,
    cache: Path | None = None,
) -> Captioner:
    """Return a model on a device, or one behind LIGHTGEN_LLM_URL, whose connections the stack closes."""
    if config.backend == "transformers":
        from lightgen_core.captioning.hf_captioner import HFCaptioner

        return HFCaptioner.load(config, device=device())
    from lightgen_core.captioning.openai_captioner import OpenAICaptioner
    from lightgen_core.endpoint import Endpoint

    key, rate = settings.llm_key.get_secret_value(), settings.endpoint_requests_per_minute
    endpoint = stack.enter_context(Endpoint(settings.llm_url, key, requests_per_minute=rate))
    return OpenAICaptioner(endpoint, config, settings.endpoint_concurrency, cache)
