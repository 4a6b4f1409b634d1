"""The command `cutaway`."""

from importlib import import_module

import click

__all__ = ["main"]

_COMMANDS = {
    "serve": "serve",
    "model": "serve",
    "sanity": "serve",
    "demo": "demo",
    "models": "tables",
    "layers": "tables",
    "predict": "predict",
    "introspect": "introspect",
    "cam": "cam",
}
"""In which module each is."""


class _Commands(click.Group):
    """Imports a command when it is called, or when the help lists it: a server that starts needs nothing of what draws maps."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"cutaway.cli.{_COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cutaway", message="cutaway %(version)s")
def main() -> None:
    """Serves convolutional networks that one can see inside, and looks into them."""
