"""Training state: weights, their average and the optimizer's moments, full or sharded."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightgen_core.config import FitConfig
from lightgen_core.train.ema import Ema
from lightgen_core.train.gather import full_tensors
from lightgen_core.train.optimizer import make_optimizer
from lightgen_core.train.parallel import (
    distribute_like,
    forget_gathered,
    local_parameters,
    local_tensor,
)

Tensors = dict[str, dict[str, Tensor]]
"""`model`, `ema` and `optimizer`, each by name; a moment's name is "<parameter>/exp_avg" and so on."""


class TrainingState:
    """The state of a run; optimizer and average work on `weights`, this process's part of the trained parameters."""

    def __init__(self, module: nn.Module, config: FitConfig):
        """module: the model itself, not a wrapper."""
        self.module = module
        self._parameters = dict(module.named_parameters())
        self.weights = local_parameters(module)
        self.optimizer = make_optimizer(module, self.weights, config.optimizer)
        self.ema = Ema(self.weights, config.ema_decay)

    def sync_local_grads(self) -> None:
        """Give each weight the gradient of its part; changes nothing but under fsdp."""
        for name, weight in self.weights.items():
            gradient = self._parameters[name].grad
            if weight is not self._parameters[name]:
                weight.grad = None if gradient is None else gradient.to_local()  # type: ignore[attr-defined]

    @torch.no_grad()
    def swap_averages(self) -> None:
        """Exchange weights and averages in place, one weight at a time; a second call puts every bit back."""
        for name, average in self.ema.state_dict().items():
            weight = self.weights[name]
            before = weight.detach().clone()
            weight.copy_(average)
            average.copy_(before)
        forget_gathered(self.module)

    def tensors(self) -> Tensors:
        """Return full tensors: the live ones, or under fsdp copies on rank 0; all ranks must call this."""
        moments: dict[str, tuple[Tensor, Tensor]] = {}
        for name, weight in self.weights.items():
            for moment, value in self.optimizer.state.get(weight, {}).items():
                sharded = value.shape == weight.shape
                moments[f"{name}/{moment}"] = (value, self._parameters[name] if sharded else value)
        model, ema = self.model_tensors()
        return {"model": model, "ema": ema, "optimizer": full_tensors(moments)}

    def model_tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the module's tensors and the averages of its weights, as `tensors` does."""
        averages = self.ema.state_dict().items()
        model = {name: (local_tensor(tensor), tensor) for name, tensor in self.module.state_dict().items()}
        ema = {name: (average, self._parameters[name]) for name, average in averages}
        return full_tensors(model), full_tensors(ema)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load full tensors; RuntimeError or KeyError if they are of a model of another shape."""
        own, parameters = self.module.state_dict(), self._parameters
        model = tensors["model"].items()
        self.module.load_state_dict({name: distribute_like(value, own.get(name, value)) for name, value in model})
        averages = tensors["ema"].items()
        self.ema.load_state_dict({n: local_tensor(distribute_like(value, parameters[n])) for n, value in averages})
        self.optimizer.state.clear()
        for key, value in tensors["optimizer"].items():
            name, moment = key.rsplit("/", 1)
            sharded, like = value.shape == parameters[name].shape, parameters[name]
            part = local_tensor(distribute_like(value, like)) if sharded else value.to(like.device)
            self.optimizer.state[self.weights[name]][moment] = part
