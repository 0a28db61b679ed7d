"""``penstock test``, and what ``penstock check --explain`` says: rules tried without a running agent."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli_options import config_option
from agent.errors import EXIT_FAILURE

if TYPE_CHECKING:
    from agent.config import Config


def explain(config: "Config", text: str, listener: str) -> None:
    """Print what the rules of *config* do to the metric *text*."""
    from agent.trial import Trial, listener_for, listener_that_reads

    data = text.encode() + b"\n"
    listen = listener_for(config, listener, "") if listener else listener_that_reads(config, data)
    for line in Trial(config).explain(listen, data):
        click.echo(line)


@click.command()
@config_option
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.pass_context
def test(ctx: click.Context, path: Path | None, files: tuple[Path, ...]) -> None:
    """Try the rules of the configuration on the cases in FILES: what comes in, what is to come out."""
    from agent.config import load
    from agent.trial import Trial, cases, problems

    config = load(path)
    trial = Trial(config)
    failed = count = 0
    for file in files:
        for index, case in enumerate(cases(file)):
            count += 1
            wrong = problems(trial, config, case)
            failed += bool(wrong)
            for one in wrong:
                click.echo(f"{file}: {case.name or f'case[{index}]'}: {one}")
    click.echo(f"{count} cases, {failed} failed")
    if failed:
        ctx.exit(EXIT_FAILURE)
