"""`cutaway serve`: the server's own command, which is looked for only when it is called."""

from importlib import import_module

import click


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def serve(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Starts a server; needs cutaway[server]."""
    try:
        command: click.Command = import_module("cutaway_server.process.main").serve
        with command.make_context("serve", list(arguments), parent=ctx.parent) as own:
            command.invoke(own)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the server is not installed ({error.name} is missing): pip install 'cutaway[server]'"
        ) from error
