"""`lightgen notify`: messages about runs, by Prefect's notification blocks."""

from typing import Literal, get_args

import click

Occasion = Literal["done", "failed", "stopped-early", "over-budget"]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)


@click.command()
@click.argument("block", required=False, metavar="[TYPE/NAME]")
@click.option("--on", "occasions", multiple=True, type=click.Choice(OCCASIONS), help="Only this; all by default.")
@click.option(
    "--budget-hours", type=click.FloatRange(min=0.01), help="A run that takes longer is over-budget; 24 by default."
)
@click.option("--off", is_flag=True, help="Send none of these any more.")
def notify(block: str | None, occasions: tuple[Occasion, ...], budget_hours: float | None, off: bool) -> None:
    """Send messages about runs: done, failed, over budget.

    Also when a guard stopped a stage. TYPE/NAME is a notification block of the Prefect server in PREFECT_API_URL:
    Slack, Teams, Discord, e-mail by SendGrid, any webhook (page Blocks of its UI). The server sends, so it must stay.

    \b
    lightgen notify slack-webhook/team
    lightgen notify custom-webhook/mine --on failed --on over-budget --budget-hours 8
    lightgen notify --off
    """
    from flows.environment import quiet_prefect
    from flows.errors import UserError
    from flows.operations.configured import is_server_configured

    if (block is None) is not off:
        raise UserError("give the block that sends, such as slack-webhook/team, or --off alone")
    quiet_prefect()
    if not is_server_configured():
        raise UserError(
            "notifications are sent by a Prefect server that stays, and none is configured: start one with `prefect "
            "server start --background` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    from prefect.client.orchestration import get_client

    from flows.operations.notifications import switch_off, switch_on
    from flows.operations.server import ensure_server

    ensure_server()
    chosen = [each for each in OCCASIONS if not occasions or each in occasions]
    with get_client(sync_client=True) as client:
        made = switch_on(client, block, chosen, budget_hours) if block else switch_off(client, chosen)
    click.echo("\n".join(made))
