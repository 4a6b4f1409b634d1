"""The tables and names in the docs are those of the code. A table that is not: the failure shows it as it should be."""

import json
import re
import urllib.request
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import cutaway
from cutaway.v1 import introspect_pb2
from cutaway_server.errors import Refusal
from cutaway_server.introspection.cam import METHODS
from cutaway_server.introspection.cam.method import Extent, Method, Passes
from cutaway_server.introspection.nothing import Nothing
from cutaway_server.introspection.plan import MAX_CAPTURES
from cutaway_server.introspection.plan_cams import MAX_CAMS
from cutaway_server.metrics import Metrics
from cutaway_server.models.engine_choice import ENGINES
from cutaway_server.models.model import Model
from cutaway_server.models.presets import PRESETS
from cutaway_server.models.repository.manifest import Manifest, Versions
from cutaway_server.models.scores import ScoresKind
from cutaway_server.prediction.engines import cache, choosing
from cutaway_server.process.settings import Settings, load_settings
from cutaway_server.rpc.errors import TABLE
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.streams import MAX_STREAMS
from cutaway_server.rpc.served import State
from server_process import ServerProcess

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def rows_under(name: str, first_cell: str) -> list[list[str]]:
    """The cells of the table whose header begins so."""
    _, _, table = page(name).partition(f"\n| {first_cell} |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def settings_rows() -> list[list[str]]:
    rows = []
    for name, field in Settings.model_fields.items():
        description, _, said = (field.description or "").partition(" [default: ")
        default = "none" if field.default == () else str(field.default).lower()
        default = said.rstrip("]") if field.default is PydanticUndefined else default
        flag = f"--{name.replace('_', '-')}"
        rows.append([f"`{flag}`", f"`CUTAWAY_{name.upper()}`", default, description])
    return rows


def as_table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_settings():
    assert rows_under("server.md", "flag") == settings_rows(), f"\n{as_table(settings_rows())}"


def test_the_file_of_settings_is_one(tmp_path: Path):
    (example,) = re.findall(r"```toml\n(.*?)```", page("server.md"), re.DOTALL)
    file = tmp_path / "cutaway.toml"
    file.write_text(example)
    assert load_settings({}, file).max_batch == 16


def test_engines():
    assert {row[0].strip("`") for row in rows_under("engines.md", "engine")} == set(ENGINES)
    text = " ".join(page("engines.md").split())
    for claim in (
        f"batches of {_listed(choosing._CHECKED)};",
        f"may differ by {choosing.TOLERANCE:g} of the largest score",
        f"at a batch of {_listed(choosing._TIMED)},",
        f"not used for {cache._UNUSED_SECONDS // 86_400} days",
    ):
        assert claim in text


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}"


def test_limits():
    named = [re.fullmatch(r"`(\w+)`", row[1]) for row in rows_under("server.md", "what")]
    assert {match[1] for match in named if match} <= Settings.model_fields.keys()
    fixed = [row[1] for row, match in zip(rows_under("server.md", "what"), named, strict=True) if not match]
    assert fixed == [str(MAX_CAPTURES), str(MAX_CAMS), str(MAX_STREAMS)]


def test_memory_bound(models: dict[str, Model]):
    lanes, buffer = Settings.model_fields["lanes"].default, Settings.model_fields["stream_buffer_mib"].default
    assert f"{lanes} x {buffer} MiB, so {lanes * buffer * len(models)} MiB for the two built-in networks" in page("server.md")


def metrics_rows(server: ServerProcess) -> list[list[str]]:
    """As the server tells them. What no call has touched shows no labels there: those come from the catalogue."""
    catalogue = {metric._name: metric._labelnames for metric in vars(Metrics()).values() if isinstance(metric, MetricWrapperBase)}
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    rows = []
    for family in families:
        if not family.name.endswith("_created"):
            labels = catalogue.get(family.name) or family.samples[0].labels
            said = ", ".join(f"`{label}`" for label in labels)
            rows.append([f"`{family.name}`", family.type, said, unit_of(family.name), family.documentation])
    return rows


def test_metrics(live_server: ServerProcess):
    expected = metrics_rows(live_server)
    assert rows_under("metrics.md", "metric") == expected, f"\n{as_table(expected)}"


def unit_of(name: str) -> str:
    for unit in ("seconds", "bytes", "samples"):
        if name.endswith(f"_{unit}"):
            return unit
    return {
        "requests": "calls",
        "waiting": "calls",
        "stops": "forward passes",
        "hooks": "hooks",
        "models": "models",
        "info": "engines",
        "deviation": "share",
        "up": "times",
        "path": "1 or 0",
    }.get(name.rpartition("_")[2], "mirrors")


def runs_of(method: Method) -> str:
    """Beyond what all maps share, at 224 x 224; C for one a channel."""

    def passes(channels: int) -> Passes:
        return method.passes(Extent(channels, (224, 224), method.default((224, 224))))

    few, many = passes(7), passes(9)
    runs = [(("C" if few[i] == 7 and many[i] == 9 else str(few[i])), name) for i, name in enumerate(("forward", "backward"))]
    return ", ".join(f"{count} {name}" for count, name in runs if count != "0") or "none"


def test_methods():
    expected = [
        [f"`{name}`", method.formula, method.needs.value, runs_of(method), method.use, method.avoid, method.paper]
        for name, method in METHODS.items()
    ]
    assert rows_under("cams.md", "method") == expected, f"\n{as_table(expected)}"
    assert f"{NUMBERS[len(expected)]} methods make one" in page("cams.md")


NUMBERS = {20: "Twenty", 21: "Twenty-one", 22: "Twenty-two", 23: "Twenty-three"}


def test_notes():
    expected = [[f"`{why.name.lower()}`", why.value] for why in Nothing]
    assert rows_under("cams.md", "note") == expected, f"\n{as_table(expected)}"


def test_measures():
    assert [row[0].strip("`") for row in rows_under("cams.md", "measure")] == [field.name for field in fields(cutaway.Measures)]


def keys_of(schema: dict[str, Any], section: dict[str, Any], where: str = "") -> list[list[str]]:
    """A row for each key of a section of a JSON schema, each followed by those of the section that it holds."""

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    rows = []
    for name, said in section["properties"].items():
        parts = [resolved(part) for part in said.get("anyOf", [said])]
        several = [resolved(part["items"]) for part in parts if part.get("type") == "array"]
        inside = next((part for part in [*parts, *several] if "properties" in part), None)
        if inside:
            kind = "a list of sections" if inside in several else "a section"
        else:
            kind = ", or ".join(filter(None, map(type_of, parts)))
        default = "" if inside or said.get("default") in (None, {}) else f"`{json.dumps(said['default'])}`"
        default = "required" if name in section.get("required", ()) else default
        rows.append([f"`{where}{name}`", kind, default, said.get("description") or (inside or {}).get("description", "")])
        if inside:
            rows += keys_of(schema, inside, f"{where}{name}{'[]' if inside in several else ''}.")
    return rows


def type_of(part: dict[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"a list of {part['items'].get('type', 'size')}s"
    return {None: "", "null": "", "object": "a mapping"}.get(part.get("type"), str(part.get("type")))


@pytest.mark.parametrize(("kind", "file"), [(Manifest, "model.yaml"), (Versions, "versions.yaml")])
def test_keys_of_a_models_folder(kind: type[BaseModel], file: str):
    schema = kind.model_json_schema()
    expected = keys_of(schema, schema)
    assert rows_under("models.md", f"key of {file}") == expected, f"\n{as_table(expected)}"


def test_presets():
    def numbers(values: tuple[float, ...]) -> str:
        return ", ".join(f"{value:g}" for value in values)

    expected = [
        [
            f"`{name}`",
            spec.color,
            f"{spec.height} x {spec.width}",
            str(spec.resize_shorter),
            spec.resample,
            numbers(spec.mean),
            numbers(spec.std),
            numbers(spec.range),
        ]
        for name, spec in PRESETS.items()
    ]
    assert rows_under("models.md", "preset") == expected, f"\n{as_table(expected)}"


def test_states_and_kinds_of_scores():
    assert [row[0].strip("`") for row in rows_under("models.md", "state")] == [state.value for state in State]
    assert [row[0].strip("`") for row in rows_under("models.md", "scores")] == [kind.value for kind in ScoresKind]


def test_layer_names(models: dict[str, Model]):
    expected = [
        [
            str(layer.index),
            f"`{layer.name}`",
            layer.kind.value,
            layer.type,
            " x ".join(["N", *map(str, layer.outputs[0].shape[1:])]),
        ]
        for layer in models["mnist"].layers.firing
    ]
    assert rows_under("concepts.md", "index") == expected, f"\n{as_table(expected)}"


def test_error_codes():
    told = {row[0].strip("`") for row in rows_under("contract.md", "code")}
    assert told == {code.name for code, _ in TABLE.values()}
    assert all(issubclass(refusal, Refusal) for refusal in TABLE)


def test_open_inference_methods():
    told = [name for row in rows_under("open-inference.md", "method") for name in re.findall(r"`(\w+)`", row[0])]
    (service,) = messages.DESCRIPTOR.services_by_name.values()
    assert sorted(told) == sorted(method.name for method in service.methods)
    assert f"{MAX_STREAMS} may be open" in page("open-inference.md")


def test_the_json_request_is_one():
    (example,) = re.findall(r"```json\n(.*?)```", page("contract.md"), re.DOTALL)
    request = json_format.ParseDict(json.loads(example), introspect_pb2.IntrospectRequest())
    assert (request.model, len(request.captures)) == ("mnist", 3)


def test_make_targets():
    told = set(re.findall(r"`make (\w+)", (DOCS.parent / "CONTRIBUTING.md").read_text()))
    assert told <= set(re.findall(r"^(\w+):", (DOCS.parent / "Makefile").read_text(), re.MULTILINE))


def test_commit_hooks_are_those_of_make_check():
    (hooks,) = (repo["hooks"] for repo in yaml.safe_load((DOCS.parent / ".pre-commit-config.yaml").read_text())["repos"])
    recipe = (DOCS.parent / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    entries = {line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines() if line.startswith("\t$(BIN)")}
    assert {hook["entry"] for hook in hooks} == entries


def test_links_lead_somewhere():
    for file in [*DOCS.glob("*.md"), DOCS.parent / "CONTRIBUTING.md", DOCS.parent / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
