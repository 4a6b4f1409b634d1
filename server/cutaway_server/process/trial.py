"""Tries models in a process of its own, before the server loads them: what hangs, crashes or fails there harms nobody.

Run as a program it reads a line of JSON for each trial, and answers each with one.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from cutaway_server.models.model import NotServable
from cutaway_server.models.repository.folders import Folder
from cutaway_server.models.repository.load import Hardware, Permissions, load


class Trial:
    """A process that loads and runs models on the CPU. Started when it is first needed.

    Args:
        limit: seconds that one model may take.
    """

    def __init__(self, permissions: Permissions, limit: float) -> None:
        self._permissions = permissions
        self._limit = limit
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, folder: Folder) -> None:
        """Raises NotServable where the model in a folder cannot be served."""
        child = self._child = self._child or _start()
        question = {"path": str(folder.path), "name": folder.name, "version": folder.version, **vars(self._permissions)}
        try:
            answer = self._ask(child, question)
        except OSError:  # it crashed before it read the question
            answer = b""
        if answer is None:
            self.end()
            raise NotServable(f"it did not load and run within {self._limit:g} s, which is the limit (--load-timeout)")
        if not answer:
            status = child.wait()
            self._child = None
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
            raise NotServable(f"it ended the process that tried it, with {how}")
        verdict = json.loads(answer)
        if verdict["problem"]:
            raise NotServable(verdict["problem"]) from (_Cause(verdict["cause"]) if verdict["cause"] else None)

    def end(self) -> None:
        """Ends the process. Another one starts when one is needed again."""
        child, self._child = self._child, None
        if child:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()

    def _ask(self, child: "subprocess.Popen[bytes]", question: dict[str, Any]) -> bytes | None:
        """The answer; empty where the process ended, None where it takes too long."""
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(question).encode() + b"\n")
        child.stdin.flush()
        if not select.select([child.stdout], [], [], self._limit)[0]:
            return None
        return child.stdout.readline()


class _Cause(Exception):
    """What failed in the other process, for the log."""


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cutaway_server.process.trial"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def main() -> None:
    """Answers until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what models print is no answer
    from cutaway_server.models.threads import use_cpu_threads

    use_cpu_threads(1)
    for question in sys.stdin:
        _answer(json.loads(question), answers)


def _answer(question: dict[str, Any], answers: IO[bytes]) -> None:
    permissions = Permissions(question["code"], tuple(question["factories"]))
    problem = cause = ""
    try:
        name, version = question["name"], question["version"]
        load(Path(question["path"]), name, version, permissions, Hardware("cpu", fixed=True), look_inside=False)
    except NotServable as error:
        problem, cause = str(error), "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
    except BaseException as error:  # SystemExit, too: a model's own doing
        problem, cause = f"loading it raises {type(error).__name__}", "".join(traceback.format_exception(error))
    answers.write(json.dumps({"problem": problem, "cause": cause}).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
