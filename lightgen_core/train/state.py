"""Training state: weights, their average and the optimizer's moments, full or sharded."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightgen_core.config import LoopConfig
from lightgen_core.train.ema import Ema
from lightgen_core.train.optimizer import make_optimizer
from lightgen_core.train.parallel import distribute_like, full_tensor, local_parameters, local_tensor

Tensors = dict[str, dict[str, Tensor]]
"""`model`, `ema` and `optimizer`, each by name; a moment's name is "<parameter>/exp_avg" and so on."""


class TrainingState:
    """The state of a run. Optimizer and average work on `weights`, plain tensors, whether the module is sharded or not.

    module: the model itself, not a wrapper; weights: what this process holds of its trained parameters, by name.
    """

    def __init__(self, module: nn.Module, config: LoopConfig):
        self.module = module
        self._parameters = dict(module.named_parameters())
        self.weights = local_parameters(module)
        self.optimizer = make_optimizer(module, self.weights, config.optimizer)
        self.ema = Ema(self.weights, config.ema_decay)

    def sync_local_grads(self) -> None:
        """Give each held weight the gradient of its part; nothing to do but under fsdp."""
        for name, weight in self.weights.items():
            gradient = self._parameters[name].grad
            if weight is not self._parameters[name]:
                weight.grad = None if gradient is None else gradient.to_local()  # type: ignore[attr-defined]

    def drop_gradients(self) -> None:
        """Forget the gradients of the update that was made."""
        self.module.zero_grad()
        self.optimizer.zero_grad()

    def tensors(self) -> Tensors:
        """Whole tensors: the live ones, or under fsdp copies that the first process gets; all must call this."""
        moments: dict[str, Tensor | None] = {}
        for name, weight in self.weights.items():
            for moment, value in self.optimizer.state.get(weight, {}).items():
                sharded = value.shape == weight.shape
                moments[f"{name}/{moment}"] = full_tensor(value, self._parameters[name]) if sharded else value
        model, ema = self.model_tensors()
        return {"model": model, "ema": ema, "optimizer": _present(moments)}

    def model_tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The module's tensors and the averages of its weights, as `tensors` gives them."""
        averages = self.ema.state_dict().items()
        model = {name: full_tensor(local_tensor(tensor), tensor) for name, tensor in self.module.state_dict().items()}
        ema = {name: full_tensor(average, self._parameters[name]) for name, average in averages}
        return _present(model), _present(ema)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put whole tensors in.

        Raises:
            RuntimeError, KeyError: they are of a model of another shape.
        """
        own, parameters = self.module.state_dict(), self._parameters
        model = {
            name: distribute_like(tensor, own[name]) if name in own else tensor
            for name, tensor in tensors["model"].items()
        }
        self.module.load_state_dict(model)
        self.ema.load_state_dict(
            {name: local_tensor(distribute_like(value, parameters[name])) for name, value in tensors["ema"].items()}
        )
        self.optimizer.state.clear()
        for key, value in tensors["optimizer"].items():
            name, moment = key.rsplit("/", 1)
            parameter = parameters[name]
            held = (
                local_tensor(distribute_like(value, parameter))
                if value.shape == parameter.shape
                else value.to(parameter.device)
            )
            self.optimizer.state[self.weights[name]][moment] = held


def _present(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
