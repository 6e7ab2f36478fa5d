"""Prompts written out as long captions before a student draws them."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from flows.commands.evaluate_asked_model import IN_PROCESS
from flows.errors import UserError
from lightgen_core.captioning.config import PromptRewriting
from tasks.config.settings import Settings
from tasks.writer import open_writer

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def rewrite(prompts: Sequence[str], name: str, seed: int) -> list[str]:
    """Return what the model makes of each prompt, as `evaluation.rewrite` does, and log it.

    Args:
        name: `transformers:MODEL`, or a model behind LIGHTGEN_LLM_URL.

    Raises:
        UserError: the model cannot be used, or its answer is no caption.
    """
    from lightgen_core.captioning.rewrite import parse_rewriting, rewriting_instruction
    from lightgen_core.endpoint import EndpointError

    settings = Settings()
    backend = "transformers" if name.startswith(IN_PROCESS) else "endpoint"
    config = PromptRewriting.model_validate({"model": name.removeprefix(IN_PROCESS), "backend": backend})
    with ExitStack() as stack:
        try:
            writer = open_writer(config, settings, partial(_device, settings), stack)
            asked = [rewriting_instruction(config, prompt) for prompt in prompts]
            answers = writer.write(asked, [seed] * len(prompts))
        except (EndpointError, OSError, ValueError) as error:
            raise UserError(f"--rewrite {name}: {error}") from error
    captions = []
    for prompt, answer in zip(prompts, answers, strict=True):
        found = parse_rewriting(config, prompt, answer)
        if found.caption is None:
            raise UserError(f"--rewrite {name}: the answer to {prompt!r} is no caption: {found.reason}; {found.detail}")
        log.info("%s -> %s", prompt, found.caption)
        captions.append(found.caption)
    return captions


def _device(settings: Settings) -> "torch.device":
    from lightgen_core.device import pick_device

    return pick_device(settings.device, settings.threads)
