"""Class activation maps as tables and as facts for machines."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.table import Table

import cutaway
from cutaway import pictures


def map_facts(event: cutaway.CamMap) -> dict[str, Any]:
    """What a map is and the settings that made it, and its largest value."""
    facts = {field.name: getattr(event, field.name) for field in fields(event) if field.name != "map"}
    return facts | {
        "scaling": event.scaling and event.scaling._asdict(),
        "placement": [place._asdict() for place in event.placement],
        "notes": [note._asdict() for note in event.notes],
        "shape": event.map.shape,
        "maximum": pictures.value_span(event.map)[1],
    }


def maps_table(maps: Sequence[cutaway.CamMap], names: Sequence[str]) -> Table:
    """One line a map."""
    table = Table("map", "layer", "classes", "shape", "largest value", "note")
    for event in maps:
        classes = " against ".join(" ".join(map(str, of)) for of in (event.classes, event.against) if of)
        shape, (_, high) = pictures.shape_text(event.map.shape), pictures.value_span(event.map)
        table.add_row(event.method, event.layer, classes, shape, f"{high:.4g}", notes_text(event, names))
    return table


def notes_text(event: cutaway.CamMap, names: Sequence[str]) -> str:
    """Why samples have a map that says nothing; with their names, where there are several."""
    return "\n".join((f"{names[note.sample]}: " if len(names) > 1 else "") + note.message for note in event.notes)
