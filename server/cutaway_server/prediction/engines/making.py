"""Makes an ONNX file of a model of a folder, and chooses the engine that runs Predict with it."""

from pathlib import Path

from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model
from cutaway_server.prediction.engines.cache import Kept
from cutaway_server.prediction.engines.choosing import choose_engine


def make_and_choose(model: Model, folder: Path, wanted: str, threads: int, cache: Path) -> EngineChoice:
    """The engine for a model. Traces the network: not in a process that serves.

    Args:
        folder: that it was loaded from.
        cache: where files are kept for the next time.
    Raises:
        NotServable: as `choose_engine`.
    """
    if model.onnx:
        own = model.onnx
        return choose_engine(model, wanted, threads, lambda: (own, ""), {})
    kept = Kept(cache, model, folder, threads)
    choice = choose_engine(model, wanted, threads, kept.file, kept.timings)
    kept.save()
    return choice
