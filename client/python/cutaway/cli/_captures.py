"""Captures, and plans of them, as tables and as facts for machines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

import cutaway
from cutaway import pictures
from cutaway.cli._command import bytes_text, passes_text, print_json, seconds_text, stdout
from cutaway.cli._output_files import map_key, value_key


def capture_facts(event: cutaway.Activation | cutaway.Statistics) -> dict[str, Any]:
    """What a capture is, and a few numbers about all of it."""
    facts = {"key": value_key(event), "layer": event.layer, "kind": event.kind, "path": event.path}
    if isinstance(event, cutaway.Statistics):
        return facts | {"samples": _statistics_facts(event), "dtype": None, "shape": None} | _over_all(event)
    low, high = pictures.value_span(event.array)
    with np.errstate(all="ignore"):  # the mean of infinities is no number, which is said as such
        mean = float(event.array.mean()) if event.array.size else 0.0
    return {
        **facts,
        "dtype": event.array.dtype.name,
        "shape": list(event.array.shape),
        "channels": None if event.channels is None else event.channels.tolist(),
        "minimum": low,
        "mean": mean,
        "maximum": high,
        "zeros": float((event.array == 0).mean()) if event.array.size else 0.0,
    }


def _statistics_facts(event: cutaway.Statistics) -> list[dict[str, Any]]:
    names = ("minimum", "maximum", "mean", "std", "zeros", "l2", "non_finite")
    columns = [getattr(event, name).tolist() for name in (*names, "histogram")]
    return [dict(zip((*names, "histogram"), row, strict=True)) for row in zip(*columns, strict=True)]


def _over_all(event: cutaway.Statistics) -> dict[str, float]:
    return {
        "minimum": float(event.minimum.min()),
        "mean": float(event.mean.mean()),
        "maximum": float(event.maximum.max()),
        "zeros": float(event.zeros.mean()),
    }


def captures_table(captures: Sequence[dict[str, Any]]) -> Table:
    """One line a capture."""
    table = Table("capture", "shape", "dtype", "smallest", "mean", "largest", "zeros")
    for facts in captures:
        numbers = (f"{facts[name]:.4g}" for name in ("minimum", "mean", "maximum"))
        shape = "statistics" if facts["shape"] is None else pictures.shape_text(facts["shape"])
        table.add_row(facts["key"], shape, facts["dtype"] or "", *numbers, f"{facts['zeros']:.0%}")
    return table


def show_plan(started: cutaway.Started, *, as_json: bool) -> None:
    """What a call would bring and take."""
    if as_json:
        print_json(
            {
                "model": started.model,
                "version": started.version,
                "batch": started.batch,
                "captures": [capture._asdict() for capture in started.captures],
                "cams": [cam._asdict() for cam in started.cams],
                "total_bytes": started.total_bytes,
                "estimate": started.estimate._asdict(),
            }
        )
        return
    table = Table("capture", "shape", "dtype", "bytes", "of")
    for capture in started.captures:
        shape = pictures.shape_text(capture.shape) if capture.shape is not None else ""
        sizes = bytes_text(capture.bytes), bytes_text(capture.full_bytes)
        table.add_row("/".join(filter(None, (capture.kind, capture.layer, capture.path))), shape, capture.dtype or "", *sizes)
    for cam in started.cams:
        place = " + ".join(cam.layers) or "the input"
        table.add_row(f"{map_key(cam)}: {cam.method} at {place}", pictures.shape_text(cam.shape), "float32", "", "")
    stdout().print(table)
    estimate = started.estimate
    passes = passes_text(estimate.forward_passes, estimate.backward_passes)
    stop = f" that ends after {estimate.stops_after}" if estimate.stops_after else ""
    stdout().print(
        f"{started.model} {started.version}, {started.batch} samples: {bytes_text(started.total_bytes)} to send, "
        f"{passes}{stop}, about {seconds_text(estimate.compute)} of computing. Nothing ran.",
        soft_wrap=True,
    )
