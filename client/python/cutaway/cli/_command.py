"""What the commands that talk to a server share: how to reach it, how to print, how to fail."""

import json
import math
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import cutaway

WIDE = 160  # columns for output that no terminal limits: tables in a pipe keep their words whole


class ClientCommand(click.Command):
    """A command with --server and --timeout that says what went wrong in one line on stderr and exits with 1.

    Args:
        timeout: default of --timeout, in seconds.
    """

    def __init__(self, *args: Any, timeout: float = 30.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(
                ["--server"],
                default="127.0.0.1:50051",
                envvar="CUTAWAY_SERVER",
                show_envvar=True,
                show_default=True,
                metavar="HOST:PORT",
                help="Where the server listens.",
            ),
            click.Option(
                ["--timeout"],
                type=click.FloatRange(min=0, min_open=True),
                default=timeout,
                show_default=True,
                metavar="SECONDS",
                help="How long a call may take.",
            ),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command with a connected client as its first argument."""
        server, timeout = ctx.params.pop("server"), ctx.params.pop("timeout")
        try:
            with cutaway.Client(server, timeout=timeout) as client:
                ctx.obj = client
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except cutaway.Unavailable as error:
            hint = "is one running there? `cutaway serve` starts one"
            raise click.ClickException(f"no answer from a server at {server} ({hint}): {_line(error)}") from error
        except (cutaway.Error, OSError, ValueError, TypeError) as error:  # all that the client raises on purpose
            raise click.ClickException(_line(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout instead of tables.")


def print_json(value: object) -> None:
    """Writes a value as JSON; what is not finite becomes null, since JSON has no NaN."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(part) for key, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
    return value


def stdout() -> Console:
    """Where tables go. Names are printed as they are: brackets and colons in them mean nothing."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


def progress_bar() -> Progress:
    """A bar on stderr, only where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def bytes_text(count: int) -> str:
    """1536 as "1.5 KiB"."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def seconds_text(seconds: float) -> str:
    """0.0123 as "12.3 ms", and less than a tenth of one as "12 µs"."""
    if 0 < seconds < 1e-4:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def engine_text(name: str, speed_up: float, deviation: float) -> str:
    """What runs Predict: "onnxruntime, 3.1 times as fast as the network itself, deviates by up to 3e-07 of the largest score"."""
    compared = f", {speed_up:.1f} times as fast as the network itself, deviates by up to {deviation:.0e} of the largest score"
    return name + (compared if deviation or speed_up != 1 else "")


def passes_text(forward: int, backward: int) -> str:
    """Runs of the network for each sample: "1 forward, 1 backward"."""
    return f"{forward} forward" + (f", {backward} backward" if backward else "")


def class_text(best: cutaway.ScoredClass) -> str:
    """A class as its label, or its index where it has none, with its probability."""
    return f"{best.label or best.index} ({best.probability:.1%})"
