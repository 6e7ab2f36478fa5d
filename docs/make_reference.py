"""Write docs/reference.md: the Python interface, every field of a recipe, every setting.

python docs/make_reference.py
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import lightgen  # noqa: E402
from flows.commands.recipe_info import field_rows  # noqa: E402
from tasks.config.recipe import Recipe  # noqa: E402
from tasks.config.settings import Settings  # noqa: E402

REFERENCE = ROOT / "docs/reference.md"
INTRODUCTION = """# Reference

Written by `python docs/make_reference.py` from the code; do not edit it by hand.

- [Python](#python): `import lightgen`
- [Recipe fields](#recipe-fields): what is made; also `lightgen fields [SECTION]`
- [Settings](#settings): where it runs
"""


def reference() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *_python(), *_fields(), *_settings()])


def _python() -> Iterator[str]:
    yield f"## Python\n\n{_text(lightgen)}\n"
    for function in (lightgen.run, lightgen.load):
        yield _described(f"lightgen.{function.__name__}", function)
    for owner in (lightgen.Run, lightgen.CaptionedImage, lightgen.Student):
        yield f"### lightgen.{owner.__name__}\n\n{_text(owner)}\n"
        for name, member in vars(owner).items():
            if isinstance(member, property):
                yield f"#### {owner.__name__}.{name}\n\n{_text(member)}\n"
            elif name == "__call__" or (not name.startswith("_") and callable(getattr(owner, name))):
                yield _described(f"{owner.__name__}.{name}".removesuffix(".__call__"), getattr(owner, name), "####")
    yield "### Errors\n"
    for error in (lightgen.UserError, lightgen.StageFailed, lightgen.StoreError):
        yield f"- `lightgen.{error.__name__}`: {' '.join(_text(error).split())}"
    yield ""


def _described(name: str, function: Callable[..., Any], heading: str = "###") -> str:
    signature = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values() if each.name != "self"]
    shown = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return f"{heading} {name}\n\n```python\n{name}{_double_quoted(shown)}\n```\n\n{_text(function)}\n"


def _double_quoted(signature: inspect.Signature) -> str:
    """Return a signature as ruff, which formats Python in documents, writes it."""
    return str(signature).replace("'", '"')


def _text(thing: Any) -> str:
    """Return a docstring as Markdown: arguments and errors become lists, other indented parts code."""
    paragraphs, title = [], ""
    for paragraph in re.split(r"\n\n|(?<=:)\n(?=    )", inspect.getdoc(thing) or ""):
        lines = inspect.cleandoc(paragraph)
        if not paragraph.startswith("    "):
            title = lines
            paragraphs.append(re.sub(r"^(Args|Raises|Returns):$", r"*\1*", lines))
        elif re.fullmatch("Args:|Raises:|Returns:", title):
            entries = re.split(r"\n(?! )", lines)
            paragraphs.append("\n".join(re.sub(r"^([\w, ]+):", r"- `\1`:", _cell(entry)) for entry in entries))
        else:
            paragraphs.append(f"```python\n{lines}\n```")
    return "\n\n".join(paragraphs).replace("```\n\n```python", "")


def _fields() -> Iterator[str]:
    yield (
        "## Recipe fields\n\nDefaults of `pretrain.model` and `pretrain.head` are those of the preset `tiny`. Where "
        "one follows from another field, the text says so.\n"
    )
    rows = list(field_rows(Recipe))
    for section, group in groupby(
        rows, lambda row: row["field"].partition(".")[0] if "." in row["field"] else "recipe"
    ):
        yield f"### {section}\n\n| field | default | |\n| --- | --- | --- |"
        yield from (f"| `{row['field']}` | {_code(row['default'])} | {_cell(row['means'])} |" for row in group)
        yield ""


def _settings() -> Iterator[str]:
    yield "## Settings\n\nEnvironment variables; [settings.md](settings.md) groups them.\n\n| variable | default | |"
    yield "| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        below = getattr(field.default_factory, "model_fields", None)
        if below:
            for row in field_rows(field.default_factory):  # type: ignore[arg-type]
                variable = f"LIGHTGEN_{name}__{row['field']}".upper()
                yield f"| `{variable}` | {_code(row['default'])} | {_cell(row['means'])} |"
            continue
        default = "of the machine" if field.default_factory else _code(_plain(field.default))
        yield f"| `LIGHTGEN_{name.upper()}` | {default} | {_cell(field.description or '')} |"
    yield ""


def _plain(value: Any) -> str:
    """Return a default as one would write it; a secret's is nothing."""
    if value is None or value == ():
        return "none"
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value).lower() or "none"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
    print(REFERENCE)
