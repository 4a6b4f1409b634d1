"""The command `cutaway`."""

import click

from cutaway.cli import cam, demo, introspect, predict, serve, tables

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cutaway", message="cutaway %(version)s")
def main() -> None:
    """Serves convolutional networks that one can see inside, and looks into them."""


for command in (
    serve.serve,
    serve.model,
    serve.sanity,
    demo.demo,
    tables.models,
    tables.layers,
    predict.predict,
    introspect.introspect,
    cam.cam,
):
    main.add_command(command)
