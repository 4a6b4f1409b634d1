"""Commands of the server's own, which is looked for only when they are called."""

from importlib import import_module

import click


def of_the_server(name: str, module: str, does: str) -> click.Command:
    """A command that hands all its arguments, --help too, to the one of the same name in a module of the server."""

    @click.command(name, help=f"{does}; needs cutaway[server].", add_help_option=False, context_settings=_ANYTHING)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def hand_over(ctx: click.Context, arguments: tuple[str, ...]) -> None:
        try:
            command: click.Command = getattr(import_module(module), name)
            with command.make_context(name, list(arguments), parent=ctx.parent) as own:
                command.invoke(own)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"the server is not installed ({error.name} is missing): pip install 'cutaway[server]'"
            ) from error

    return hand_over


_ANYTHING = {"ignore_unknown_options": True}

serve = of_the_server("serve", "cutaway_server.process.main", "Starts a server")
model = of_the_server("model", "cutaway_server.process.model", "Writes and checks folders of models")
sanity = of_the_server("sanity", "cutaway_server.process.sanity", "Shows which maps depend on what a network learnt")
