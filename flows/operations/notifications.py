"""Notifications of runs: automations that send by one of Prefect's notification blocks. All are off at first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.errors import UserError

Occasion = Literal["done", "failed", "stopped-early", "over-budget"]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)
FOLDER = Path(__file__).parents[1] / "automations" / "notify"


def switch_on(
    client: SyncPrefectClient, block: str, occasions: Sequence[Occasion], budget_hours: float | None = None
) -> list[str]:
    """Create the automations of these occasions, or point existing ones at a block; return a message for each.

    Args:
        block: TYPE/NAME of a notification block, as `prefect block ls` lists it: "slack-webhook/team".
        budget_hours: a run that takes longer is over-budget; by default what the file says.

    Raises:
        UserError: no such block, or one that sends no notifications.
    """
    document, messages = _notification_block(client, block), []
    for occasion in occasions:
        automation = _automation(occasion, document, budget_hours)
        if existing := client.find_automation(automation.name):
            client.update_automation(existing.id, automation)
        else:
            client.create_automation(automation)
        messages.append(f"{occasion}: sent by {block}")
    return messages


def switch_off(client: SyncPrefectClient, occasions: Sequence[Occasion]) -> list[str]:
    """Delete the automations of these occasions; return a message for each."""
    messages = []
    for occasion in occasions:
        if existing := client.find_automation(_read(occasion)["name"]):
            client.delete_automation(existing.id)
        messages.append(f"{occasion}: off" if existing else f"{occasion}: was off")
    return messages


def _automation(occasion: Occasion, block: BlockDocument, budget_hours: float | None) -> AutomationCore:
    values = _read(occasion)
    for action in values["actions"]:
        action["block_document_id"] = block.id
    if occasion == "over-budget" and budget_hours is not None:
        values["trigger"]["within"] = budget_hours * 3600
    return AutomationCore.model_validate(values)


def _read(occasion: Occasion) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{occasion}.yaml").read_text())


def _notification_block(client: SyncPrefectClient, block: str) -> BlockDocument:
    kind, _, name = block.partition("/")
    known = client.read_block_documents()
    sending = sorted(
        f"{each.block_type.slug}/{each.name}"
        for each in known
        if each.block_type and each.block_schema and "notify" in each.block_schema.capabilities
    )
    listed = f"; those of this server: {', '.join(sending)}" if sending else ", and this server has none"
    try:
        document = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise UserError(
            f"found no block {block}; give TYPE/NAME of a notification block, such as slack-webhook/team{listed}. "
            "Create one on the page Blocks of the Prefect UI"
        ) from None
    if f"{kind}/{name}" not in sending:
        raise UserError(f"the block {block} sends no notifications; give one that does{listed}")
    return document
