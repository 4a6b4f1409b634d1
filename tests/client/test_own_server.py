"""The demo's server process: found, stopped as an orchestrator would, and never left behind."""

import sys

import click
import pytest

from cutaway.cli._server import running_server

OBEDIENT = """
import signal, sys, threading
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
print("metrics at http://127.0.0.1:5", flush=True)
print("cutaway is listening on 127.0.0.1:7, device cpu", flush=True)
print("x" * 1_000_000, flush=True)  # more than a pipe holds
stop.wait()
sys.exit({status})
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_address_and_a_quiet_end():
    with running_server(python(OBEDIENT.format(status=0))) as address:
        assert address == "127.0.0.1:7"


def test_a_bad_end_is_told():
    server = running_server(python(OBEDIENT.format(status=3)))
    with pytest.raises(click.ClickException, match="stopped with status 3"), server:
        pass


def test_a_server_that_does_not_start_says_why():
    server = running_server(python("import sys; sys.exit('no such flag')"))
    with pytest.raises(click.ClickException, match="did not start; it said: no such flag"), server:
        pass


def test_an_error_in_the_block_is_the_one_that_is_seen():
    with pytest.raises(ZeroDivisionError), running_server(python(OBEDIENT.format(status=3))):
        raise ZeroDivisionError
