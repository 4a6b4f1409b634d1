"""The command `cutaway serve`."""

import signal
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cutaway_server.process.logs import configure_logging
from cutaway_server.process.settings import Settings, load_settings
from cutaway_server.process.tuning import keep_freed_blocks, wait_briefly


def _option(name: str, field: FieldInfo) -> Callable[[Any], Any]:
    """The flag of one setting. Its default stays with the setting, so that environment and file are asked first."""
    flag = f"--{name.replace('_', '-')}"
    default = "" if field.default is PydanticUndefined else f" [default: {str(field.default).lower()}]"
    choices = get_args(field.annotation)
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=(field.description or "") + default)
    kind: Any = click.Choice(choices) if choices and all(isinstance(choice, str) for choice in choices) else field.annotation
    metavar = "HOST:PORT" if name in ("listen", "metrics") else None
    return click.option(
        flag,
        name,
        type=kind if kind in (int, float, str) or isinstance(kind, click.Choice) else str,
        default=None,
        metavar=metavar,
        help=(field.description or "") + default,
    )


def _all_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, field in reversed(Settings.model_fields.items()):
        command = _option(name, field)(command)
    return command


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with settings named like the flags.")
@_all_options
def serve(config: Path | None, **flags: Any) -> None:
    """Serve the built-in networks over gRPC, with metrics for Prometheus.

    Each setting may also stand in the environment (CUTAWAY_MAX_BATCH=8) or in the file of --config (max_batch = 8).
    SIGTERM and SIGINT drain the server and end it with exit code 0.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = load_settings(given, config)
    except ValidationError as error:
        lines = (f"  {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise click.ClickException("\n".join(["these settings do not go:", *lines])) from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise click.ClickException(f"{config}: {error}") from error
    configure_logging(settings)
    _run(settings)


def _run(settings: Settings) -> None:
    # The system may hand a signal to any thread, and one that waits for a lock does not notice; a socket wakes it.
    told_to_stop, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    wait_briefly()
    # Imported here: PyTorch takes seconds, and --help and a wrong flag need none of it.
    from cutaway_server.models.builtin import FACTORIES, load_builtin
    from cutaway_server.models.threads import use_cpu_threads
    from cutaway_server.process.life import Server

    keep_freed_blocks()
    use_cpu_threads(settings.lane_threads)  # the layers are timed as they will run in a lane
    models = [load_builtin(name) for name in FACTORIES]
    try:
        with Server(models, settings) as server:
            for model in models:
                layers = len(model.layers.firing)
                click.echo(
                    f"serving {model.name} version {model.version} on {model.device}: {layers} layers, engine {model.engine}"
                )
            click.echo(f"metrics at http://{server.metrics_address}/metrics")
            click.echo(f"listening on {server.address}")
            sys.stdout.flush()
            told_to_stop.recv(1)
            click.echo(f"stopping: running calls have {settings.drain:g} s")
    except OSError as error:
        raise click.ClickException(str(error)) from error
