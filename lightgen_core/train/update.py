"""One update: forward, backward, clipping, optimizer, average. A non-finite one is not made, and is explained."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from lightgen_core.config import LoopConfig
from lightgen_core.draw import Draw, step_generator
from lightgen_core.seeds import seed_of
from lightgen_core.train.ema import Ema
from lightgen_core.train.optimizer import learning_rate, make_optimizer, set_learning_rate


class Losses(NamedTuple):
    """What a criterion gives for one batch.

    loss: (rows,), its mean is minimised; figures: by name, (rows,) each, without gradient, their means are logged.
    """

    loss: Tensor
    figures: dict[str, Tensor]


class Criterion(Protocol):
    """What is learned: the only thing in which pre-training and preference tuning differ."""

    def draw(self, batch: Any, generator: Generator) -> Draw:
        """All chance of a step."""
        ...

    def losses(self, model: Any, batch: Any, draw: Draw) -> Losses:
        """Losses of a batch at a draw. Called under autocast."""
        ...


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient that is not finite. The weights are those before that update."""


class Updater:
    """Makes updates of a model; each is a pure function of the state, the batch and (seed, step)."""

    def __init__(self, model: nn.Module, criterion: Criterion, config: LoopConfig, seed: int, device: torch.device):
        self.model, self.config = model.to(device), config
        self.optimizer = make_optimizer(model, config.optimizer)
        self.ema = Ema(model, config.ema_decay)
        self._criterion, self._seed, self._device = criterion, seed, device
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._broken_at = torch.full((), -1, device=device)

    def prepare(self, step: int, batch: Any) -> tuple[Any, Draw]:
        """Batch and draw of a step, on the device. Touches no state, so a thread can do it ahead of time."""
        draw = self._criterion.draw(batch, step_generator(self._seed, step))
        if self._device.type == "cuda":
            draw = draw.pin_memory()
        return batch.to(self._device), draw.to(self._device, non_blocking=True)

    def update(self, step: int, batch: Any, draw: Draw) -> dict[str, Tensor]:
        """Update number `step` (from 0). Returns what is logged: scalars on the device.

        Nothing here waits for the device. A non-finite loss or gradient raises a flag there that makes the optimizer
        skip this update and all later ones; `broken_step` reads it when the host has to wait anyway.
        """
        set_learning_rate(self.optimizer, learning_rate(step, self.config.steps, self.config.optimizer))
        losses = self._forward(step, batch, draw)
        loss = losses.loss.mean()
        loss.backward()
        norm = nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        finite = torch.isfinite(norm + loss.detach())
        self._broken_at = torch.where(finite | (self._broken_at >= 0), self._broken_at, step)
        # The fused kernel's two inputs that GradScaler also sets: it divides gradients by one, the other makes it skip.
        vars(self.optimizer)["grad_scale"] = (norm / self.config.optimizer.clip).clamp(min=1.0)
        vars(self.optimizer)["found_inf"] = (self._broken_at >= 0).float()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(step)
        return {"loss": loss.detach(), "gradient_norm": norm} | {k: v.mean() for k, v in losses.figures.items()}

    def broken_step(self) -> int | None:
        """The step that was not finite, if one was. Waits for the device."""
        step = int(self._broken_at)
        return None if step < 0 else step

    @torch.no_grad()
    def explain(self, step: int, batch: Any) -> NonFiniteLossError:
        """The error for a broken step, naming the rows that broke it: found by repeating it with the same weights."""
        losses = self._forward(step, *self.prepare(step, batch)).loss
        bad = ~torch.isfinite(losses).cpu().numpy()
        what = "the loss" if bad.any() else "the gradient (no row's loss)"
        rows = batch.ids[bad] if bad.any() else batch.ids
        named = ", ".join(map(str, rows[:16])) + (f" and {len(rows) - 16} more" if len(rows) > 16 else "")
        return NonFiniteLossError(
            f"step {step}: {what} is not finite, rows {named}; the update was not made. Look for non-finite or huge "
            "values in these rows' latents and text; if they are fine, lower the learning rate or the clip, or train "
            "in fp32. A rerun goes on from the last checkpoint"
        )

    def _forward(self, step: int, batch: Any, draw: Draw) -> Losses:
        torch.manual_seed(seed_of(self._seed, "dropout", step))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._criterion.losses(self.model, batch, draw)
