"""The vision-language model of a stage, at the address that the settings name."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from lightgen_core.vlm.config import EndpointModel
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.vlm.endpoint import EndpointVlm


def load_endpoint_vlm(ctx: StageContext, config: EndpointModel, stack: ExitStack) -> "EndpointVlm":
    """Return a model behind LIGHTGEN_VLM_URL, whose connections the stack closes."""
    from lightgen_core.endpoint import Endpoint
    from lightgen_core.vlm.endpoint import EndpointVlm

    settings = ctx.settings
    key, rate = settings.vlm_key.get_secret_value(), settings.endpoint_requests_per_minute
    endpoint = stack.enter_context(Endpoint(settings.vlm_url, key, requests_per_minute=rate))
    return EndpointVlm(endpoint, config, settings.endpoint_concurrency, ctx.scratch)
