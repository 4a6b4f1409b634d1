"""How a process that only serves is set up, tried in processes of their own."""

import subprocess
import sys

LOOKED_THROUGH = """
import gc
from cutaway_server.process.tuning import made_to_stay

with made_to_stay():
    import torch
    assert not gc.isenabled()
print(len(gc.get_objects()), gc.isenabled())
ring = []
ring.append(ring)
del ring
print(gc.collect())
"""


def test_garbage_collection_passes_over_what_was_imported() -> None:
    """And still finds what is garbage."""
    done = subprocess.run([sys.executable, "-c", LOOKED_THROUGH], capture_output=True, text=True, check=True)
    (looked_through, enabled), (found,) = (line.split() for line in done.stdout.splitlines())
    assert int(looked_through) < 1000  # PyTorch's modules alone are a hundred times as many
    assert enabled == "True"
    assert int(found) >= 1
