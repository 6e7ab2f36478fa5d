"""What is wrong with a request rather than with the program: its message says all, and no traceback is shown."""

from flows.commands.sizes import UnknownSize
from flows.load import UserError
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.evaluation.prompt import PromptFileError
from storage.store import StoreError
from tasks.config.settings import InvalidSettings
from tasks.context.digests import ContentNotFound

MISTAKES = (UserError, InvalidSettings, StoreError, ModelNotFound, ContentNotFound, PromptFileError, UnknownSize)
