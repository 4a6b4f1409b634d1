"""Tries models in a process of its own, before the server loads them: what hangs, crashes or fails there harms nobody.

Engines are made there, too, for that takes tracing, which the server's own process must not do.

Run as a program it says that it is there, reads a line of JSON for each trial, and answers each with one.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from cutaway_server.errors import ShuttingDown
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.repository.folders import Folder
from cutaway_server.models.repository.load import Hardware, Permissions, load
from cutaway_server.process.trial_process import start_trial_process
from cutaway_server.process.tuning import keep_freed_blocks

_START_SECONDS = 300  # until PyTorch is imported, which no model is to blame for


class Trial:
    """A process that loads and runs models on the CPU. Started when it is first needed.

    Args:
        limit: seconds that one model may take.
        started: one that was started already, for the first trials.
    """

    def __init__(self, permissions: Permissions, limit: float, started: "subprocess.Popen[bytes] | None" = None) -> None:
        self._permissions = permissions
        self._limit = limit
        self._started = started
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._closed = False

    def check(self, folder: Folder) -> int:
        """How many bytes the weights of the model in a folder take.

        Raises:
            NotServable: it cannot be served.
            ShuttingDown: there is no time to find out.
        """
        return int(self._verdict(folder, {})["bytes"])

    def choose_engine(self, folder: Folder, wanted: str, threads: int, cache: Path) -> EngineChoice:
        """What is to run Predict for the model in a folder.

        Args:
            wanted: an engine's name, or "auto".
            threads: CPU threads of one run.
            cache: a folder for what is made.
        Raises:
            NotServable: the engine that is wanted by name cannot run it.
            ShuttingDown: there is no time to find out.
        """
        asked = {"engine": wanted, "threads": threads, "cache": str(cache)}
        return EngineChoice.of_json(self._verdict(folder, asked)["choice"])

    def _verdict(self, folder: Folder, asked: dict[str, Any]) -> dict[str, Any]:
        """What the process says of a model, if it finds nothing wrong."""
        child = self._child or self._start()
        question = {"path": str(folder.path), "name": folder.name, "version": folder.version, **vars(self._permissions), **asked}
        try:
            answer = self._ask(child, question)
        except OSError:  # it crashed before it read the question
            answer = b""
        if answer:
            verdict: dict[str, Any] = json.loads(answer)
            if verdict["problem"]:
                raise NotServable(verdict["problem"]) from (_Cause(verdict["cause"]) if verdict["cause"] else None)
            return verdict
        status = child.wait() if answer is not None else 0
        self.end()
        if self._closed:
            raise ShuttingDown
        if answer is None:
            raise NotServable(f"it did not load and run within {self._limit:g} s, which is the limit (--load-timeout)")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        raise NotServable(f"it ended the process that tried it, with {how}")

    def end(self) -> None:
        """Ends the process. Another one starts when one is needed again. For the thread that checks."""
        children, self._child, self._started = (self._child, self._started), None, None
        for child in filter(None, children):
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()

    def close(self) -> None:
        """Ends what is tried now, from any thread. No other trial begins."""
        with self._starting:
            self._closed = True
            for child in filter(None, (self._child, self._started)):
                child.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._starting:
            if self._closed:
                raise ShuttingDown
            child = self._child = self._started or start_trial_process()
            self._started = None
        if not _line(child, _START_SECONDS):
            self.end()
            if self._closed:
                raise ShuttingDown
            raise NotServable("the process that would try it does not start; the machine may be short of memory")
        return child

    def _ask(self, child: "subprocess.Popen[bytes]", question: dict[str, Any]) -> bytes | None:
        """The answer; empty where the process ended, None where it takes too long."""
        assert child.stdin is not None
        child.stdin.write(json.dumps(question).encode() + b"\n")
        child.stdin.flush()
        return _line(child, self._limit)


def _line(child: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    assert child.stdout is not None
    return child.stdout.readline() if select.select([child.stdout], [], [], seconds)[0] else None


class _Cause(Exception):
    """What failed in the other process, for the log."""


def main() -> None:
    """Answers until nobody asks any more."""
    os.nice(10)  # the server's calls go first
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what models print is no answer
    from cutaway_server.models.threads import use_cpu_threads

    keep_freed_blocks()  # engines are timed as they will run
    _say({}, answers)
    loaded = _Loaded()
    for question in _questions():
        use_cpu_threads(1)
        _answer(question, loaded, answers)


def _questions() -> Iterator[dict[str, Any]]:
    """As they come. A thread reads them: when the server is gone, this process ends, whatever a model does."""
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            asked.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, name="questions", daemon=True).start()
    while True:
        yield asked.get()


class _Loaded:
    """The model that was tried last, for as long as its engine may be asked for."""

    def __init__(self) -> None:
        self._path = ""
        self._model: Model | None = None

    def model(self, question: dict[str, Any]) -> Model:
        """The one that is asked about."""
        known, self._model = self._model, None  # its memory is free before another one takes some
        if known and self._path == question["path"] and "engine" in question:
            return known
        known = None
        permissions = Permissions(question["code"], tuple(question["factories"]))
        path, name, version = Path(question["path"]), question["name"], question["version"]
        model = load(path, name, version, permissions, Hardware("cpu", fixed=True), look_inside=False)
        if "engine" not in question:
            self._path, self._model = question["path"], model
        return model


def _choice(model: Model, question: dict[str, Any]) -> EngineChoice:
    from cutaway_server.models.threads import use_cpu_threads
    from cutaway_server.prediction.engines.making import make_and_choose

    use_cpu_threads(question["threads"])
    return make_and_choose(model, Path(question["path"]), question["engine"], question["threads"], Path(question["cache"]))


def _answer(question: dict[str, Any], loaded: _Loaded, answers: IO[bytes]) -> None:
    problem = cause = ""
    choice, size = None, 0
    try:
        model = loaded.model(question)
        choice = _choice(model, question).as_json() if "engine" in question else None
        size = model.weight_bytes
    except NotServable as error:
        problem, cause = str(error), "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
    except BaseException as error:  # SystemExit, too: a model's own doing
        problem, cause = f"loading it raises {type(error).__name__}", "".join(traceback.format_exception(error))
    _say({"problem": problem, "cause": cause, "bytes": size, "choice": choice}, answers)


def _say(what: dict[str, Any], answers: IO[bytes]) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
