"""The process that tries models, started: apart from what asks it, so that it can import PyTorch while the server does."""

import subprocess
import sys

from cutaway_server.process.tuning import wait_briefly


def start_trial_process() -> "subprocess.Popen[bytes]":
    """It reads questions from its standard input, answers on its standard output, and ends when the input does."""
    wait_briefly()  # by the environment, which it inherits
    command = [sys.executable, "-m", "cutaway_server.process.trial"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
