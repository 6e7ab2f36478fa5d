"""The vision-language model of a stage: in its process, or at the address that the settings name."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from lightgen_core.vlm.config import VlmConfig
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.vlm.vlm import Vlm


def load_vlm(ctx: StageContext, config: VlmConfig, stack: ExitStack) -> "Vlm":
    """Return a model on the stage's device, or one behind LIGHTGEN_VLM_URL, whose connections the stack closes."""
    if config.backend == "transformers":
        from lightgen_core.vlm.hf import HFVlm

        return HFVlm.load(config, device=ctx.device())
    from lightgen_core.endpoint import Endpoint
    from lightgen_core.vlm.endpoint import EndpointVlm

    settings = ctx.settings
    key, rate = settings.vlm_key.get_secret_value(), settings.endpoint_requests_per_minute
    endpoint = stack.enter_context(Endpoint(settings.vlm_url, key, requests_per_minute=rate))
    return EndpointVlm(endpoint, config, settings.endpoint_concurrency, ctx.scratch)
