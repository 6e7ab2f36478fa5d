"""The state of a training of a tiny student, as a checkpoint holds it."""

from lightgen_core.train import checkpoint
from lightgen_core.train.state import TrainingState
from tests.factories.tiny_student import tiny_student, tiny_training

RUN = {"seed": 1, "config": {"steps": 6}}


def state_after(step: int, seed: int = 0):
    """A student, its average and an optimizer that has made one update, captured as if at `step`."""
    student = tiny_student(seed=seed)
    state = TrainingState(student, tiny_training())
    for weight in student.parameters():
        weight.grad = weight.detach() * (step + 1)
    state.optimizer.step()
    state.ema.update(0)
    return checkpoint.Checkpoint(step, state.tensors(), [{"step": step, "loss": 0.1}], RUN)
