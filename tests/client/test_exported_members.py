"""The package's face: what `__all__` says, and nothing else."""

import inspect
import subprocess
import sys

import pytest

import cutaway


def test_nothing_leaks():
    assert dir(cutaway) == cutaway.__all__ == sorted(cutaway.__all__, key=str)
    with pytest.raises(AttributeError, match="Clinet"):
        cutaway.Clinet  # noqa: B018


def test_names_are_imported_when_they_are_asked_for():
    code = """
import sys
from cutaway.v1 import tensor_pb2
assert not {"cutaway._client", "PIL", "numpy"} & sys.modules.keys()
from cutaway import *
assert Client.__module__ == "cutaway._client"
assert all(name in globals() for name in sys.modules["cutaway"].__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_has_a_docstring():
    named = [getattr(cutaway, name) for name in cutaway.__all__]
    assert [value.__name__ for value in named if inspect.isclass(value) and not value.__doc__] == []


def test_both_clients_have_the_same_methods():
    def surface(client: type) -> dict[str, list[inspect.Parameter]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: [*inspect.signature(method).parameters.values()] for name, method in methods if name[0] != "_"}

    assert surface(cutaway.Client) == surface(cutaway.AsyncClient)


def test_client_and_help_import_neither_torch_nor_the_server():
    code = """
import sys
import cutaway.pictures
from click.testing import CliRunner
from cutaway.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
assert CliRunner().invoke(main, ["predict", "--help"]).exit_code == 0
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "cutaway_server"}))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
