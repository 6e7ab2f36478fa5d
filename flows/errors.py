"""Errors of a request and of a stage, and how they read."""

from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.evaluation.prompt import PromptFileError
from storage.store import StoreError
from tasks.config.settings import InvalidSettings
from tasks.context.digests import ContentNotFound

OWN_PACKAGES = {"flows", "tasks", "storage", "lightgen_core"}


class UserError(Exception):
    """The request is wrong; the message says what to change."""


class UnknownModelSize(ValueError):
    """A size that only a model which is not on this machine tells."""


class StageFailed(Exception):
    """A stage raised; its finished shards are kept, and the same command continues from there."""


class RunCancelled(Exception):
    """The run was cancelled or deleted while it worked."""


USER_ERRORS = (
    UserError,
    InvalidSettings,
    StoreError,
    ModelNotFound,
    ContentNotFound,
    PromptFileError,
    UnknownModelSize,
)
"""Errors of the request rather than of the program: the message says all, and no traceback is shown."""


def is_own(error: BaseException) -> bool:
    """Return whether an error is one of the project's own classes."""
    return type(error).__module__.partition(".")[0] in OWN_PACKAGES


def format_error(error: BaseException) -> str:
    """Return an error's message; that of another library carries its type's name."""
    text = str(error).strip()
    return text if is_own(error) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
