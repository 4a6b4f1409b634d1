"""The command `cutaway serve`."""

import os
import signal
import socket
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cutaway_server.process.logs import configure_logging
from cutaway_server.process.settings import Settings, load_settings
from cutaway_server.process.trial_process import start_trial_process
from cutaway_server.process.tuning import keep_freed_blocks, made_to_stay, wait_briefly

if TYPE_CHECKING:
    from cutaway_server.process.life import Server


def _option(name: str, field: FieldInfo) -> Callable[[Any], Any]:
    """The flag of one setting. Its default stays with the setting, so that environment and file are asked first."""
    flag = f"--{name.replace('_', '-')}"
    several = get_origin(field.annotation) is tuple
    default = "" if several or field.default is PydanticUndefined else f" [default: {str(field.default).lower()}]"
    choices = get_args(field.annotation)
    if several:
        return click.option(
            flag, name, multiple=True, metavar=_METAVARS[name], help=f"{field.description} May be given more than once."
        )
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=(field.description or "") + default)
    kind: Any = click.Choice(choices) if choices and all(isinstance(choice, str) for choice in choices) else field.annotation
    metavar = _METAVARS.get(name)
    return click.option(
        flag,
        name,
        type=kind if kind in (int, float, str) or isinstance(kind, click.Choice) else str,
        default=None,
        metavar=metavar,
        help=(field.description or "") + default,
    )


_METAVARS = {
    "engine": "ENGINE",
    "engine_cache": "DIR",
    "listen": "HOST:PORT",
    "metrics": "HOST:PORT",
    "models": "DIR",
    "allow_factory": "PACKAGE.MODULE:NAME",
}


def _all_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, field in reversed(Settings.model_fields.items()):
        command = _option(name, field)(command)
    return command


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with settings named like the flags.")
@_all_options
def serve(config: Path | None, **flags: Any) -> None:
    """Serve the models of a folder, or the built-in ones, over gRPC, with metrics for Prometheus.

    Each setting may also stand in the environment (CUTAWAY_MAX_BATCH=8) or in the file of --config (max_batch = 8).
    SIGHUP has it look at the folder again. SIGTERM and SIGINT drain the server and end it with exit code 0.
    """
    given = {name: value for name, value in flags.items() if value not in (None, ())}
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
    told, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    wait_briefly()
    _check_folders(settings)
    trial = start_trial_process() if settings.models else None  # it imports PyTorch while this process does
    # Imported here: PyTorch takes seconds, and --help and a wrong flag need none of it.
    with made_to_stay():
        from cutaway_server.models.builtin import FACTORIES, load_builtin
        from cutaway_server.models.model import NotServable
        from cutaway_server.models.threads import use_cpu_threads
        from cutaway_server.process.life import Server

    keep_freed_blocks()
    use_cpu_threads(settings.lane_threads)  # the layers are timed as they will run in a lane
    try:
        models = [] if settings.models else [load_builtin(name, settings.device) for name in FACTORIES]
        with Server(models, settings, trial) as server:
            server.reload().add_done_callback(lambda _: wakeup.send(_LOADED))
            while (what := told.recv(1)) not in (bytes([signal.SIGTERM]), bytes([signal.SIGINT])):
                if what == _LOADED:
                    _announce(server)
                else:
                    server.reload()
            click.echo(f"stopping: running calls have {settings.drain:g} s")
    except (OSError, NotServable) as error:
        raise click.ClickException(str(error)) from error
    _leave()


def _leave() -> None:
    """Ends the process at once where a model still runs in it: the interpreter would end under it, or wait for it."""
    if any(thread is not threading.main_thread() for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(0)


_LOADED = b"\0"  # no signal has this number


def _check_folders(settings: Settings) -> None:
    for folder in settings.models:
        if not folder.is_dir():
            raise click.ClickException(f"--models {folder}: there is no such folder")


def _announce(server: "Server") -> None:
    for one in server.all():
        version = f" version {one.version}" if one.version else ""
        if one.served:
            model = one.served.model
            inside = f"{len(model.layers.firing)} layers" if not model.not_introspectable else "Predict only"
            click.echo(f"serving {one.name}{version} on {model.device}: {inside}, engine {model.engine.name}")
        else:
            click.echo(f"{one.state.value}: {one.name}{version}: {one.reason}")
    click.echo(f"metrics at http://{server.metrics_address}/metrics")
    click.echo(f"listening on {server.address}")
    sys.stdout.flush()
