"""What a model.yaml may say, what is said of one that says something else, and the schema of it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cutaway_server.models.model import NotServable
from cutaway_server.models.repository.load import manifest_of
from cutaway_server.models.repository.manifest import Manifest, Versions, read_manifest, read_versions

GOOD = "network: {factory: 'torchvision.models:resnet18'}\ninputs: [{image: imagenet}]\n"
NETWORK = "network: {factory: 'a:b'}\n"
INPUTS = "inputs: [{shape: [3]}]\n"

BAD = {
    # no YAML, or none that anybody means
    "": "the file: must be a mapping of keys to values",
    "[]": "the file: must be a mapping of keys to values",
    "just words": "the file: must be a mapping of keys to values",
    "network: [": "is no YAML: while parsing a flow node expected the node content",
    "\0": "is no YAML: unacceptable character #x0000",
    "[" * 3_000: "is no YAML: maximum recursion depth",
    "a: " + "9" * 5000: "is no YAML: Exceeds the limit .* for integer string conversion",
    "a: 2001-99-99": "is no YAML: month must be in 1..12",
    "a: !!python/object/apply:os.system ['exit 1']": "is no YAML: could not determine a constructor",
    "a: !!bool perhaps": "is no YAML",
    GOOD + "<<: {head: out}": "is no YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:merge'",
    GOOD + "? [a]\n: b": "is no YAML: .*unhashable key",
    GOOD + "head: out\nhead: in": "is no YAML: the key 'head' stands there twice",
    "network: {factory: 'a:b', factory: 'c:d'}\n" + INPUTS: "is no YAML: the key 'factory' stands there twice",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]": r"is no YAML: aliases \(\*name\) are not taken",
    # keys
    GOOD + "labals: x": "labals: unknown key; did you mean labels?",
    GOOD + "zzz: x": "zzz: unknown key$",
    GOOD + "1: x": "1: keys should be strings",
    GOOD + "weights: {fil: x}": "weights.file: field required; weights.fil: unknown key; did you mean file?",
    GOOD + "serving: {treads: 1}": "serving.treads: unknown key; did you mean threads?",
    "network: {factroy: 'a:b'}\n" + INPUTS: "network.factroy: unknown key; did you mean factory?",
    NETWORK + "inputs: [{shap: [3]}]": "inputs.0.shap: unknown key; did you mean shape?",
    NETWORK + "inputs: [{image: {presett: imagenet}}]": "inputs.0.image.presett: unknown key; did you mean preset?",
    INPUTS: "network: field required",
    NETWORK: "inputs: field required",
    # types and values
    GOOD + "head: 5": "head: input should be a valid string, not '5'",
    GOOD + "scores: logit": "scores: input should be 'logits', 'log_probabilities', 'probabilities' or 'sigmoid', not 'logit'",
    GOOD + "serving: {threads: 0}": "serving.threads: input should be greater than or equal to 1, not '0'",
    GOOD + "serving: {threads: '2'}": "serving.threads: input should be a valid integer, not '2'",
    GOOD + "serving: {lazy: 1}": "serving.lazy: input should be a valid boolean, not '1'",
    GOOD + "serving: {device: gpu}": "serving.device: ",
    GOOD + "weights: {file: w, sha256: ABC}": "weights.sha256: ",
    GOOD + "weights: [w]": "weights: must be a mapping of keys to values",
    "network: torchvision.models:resnet18\n" + INPUTS: "network: must be a mapping of keys to values",
    "network: {factory: resnet18}\n" + INPUTS: "network.factory: must be PACKAGE.MODULE:NAME, not 'resnet18'",
    'network: {factory: "a:b\\n"}\n' + INPUTS: "network.factory: must be PACKAGE.MODULE:NAME",
    NETWORK + "inputs: []": "inputs: list should have at least 1 item",
    NETWORK + "inputs: [{}]": "inputs.0: needs a shape, or an image from which that follows",
    NETWORK
    + "inputs: [{shape: [3, [5, 2]]}]": r"inputs.0.shape.1: must be a size of 1 or more, or a pair \[least, most\], not \[5, 2\]",
    NETWORK + "inputs: [{shape: [0]}]": "inputs.0.shape.0: must be a size of 1 or more",
    NETWORK + "inputs: [{shape: [1, 1, 1, 1, 1, 1, 1, 1, 1]}]": "inputs.0.shape: list should have at most 8 items",
    NETWORK + "inputs: [{shape: [3], dtype: float}]": "inputs.0.dtype: input should be 'float32', ",
    NETWORK
    + "inputs: [{image: imagnet}]": "inputs.0.image.preset: input should be 'imagenet', 'inception' or 'mnist', not 'imagnet'",
    NETWORK + "inputs: [{image: {mean: 3}}]": "inputs.0.image.mean: input should be a valid list, not '3'",
    NETWORK + "inputs: [{image: {std: [0]}}]": "inputs.0.image.std.0: input should be greater than 0",
    NETWORK + "inputs: [{shape: [3], name: x}, {shape: [3], name: x}]": "the file: two inputs have the same name",
    # one source
    "network: {}\n" + INPUTS: "network: names none; exactly one of factory, module, exported, torchscript, onnx is needed",
    "network: {factory: 'a:b', onnx: f}\n" + INPUTS: "network: names factory, onnx; exactly one of",
    "network: {onnx: f, arguments: {a: 1}}\n" + INPUTS: "network: arguments are for factory and module, not for onnx",
    "network: {onnx: f}\nweights: w\n" + INPUTS: "the file: weights are for factory and module; f brings its own",
    f"network: {{factory: 'a:b', sha256: {'a' * 64}}}\n" + INPUTS: "network: sha256 is of a file, and a factory has none",
    # files
    **{
        f"network: {{{source}: {file!r}}}\n" + INPUTS: f"network.{source}: must be a file of the model's own folder, with no '..'"
        for source in ("module", "exported", "torchscript", "onnx")
        for file in ("../net", "/net", "a/../../net", "a\\b", "")
        if file or source == "module"
    },
    GOOD + "weights: ../w": "weights.file: must be a file of the model's own folder",
    GOOD + "labels: /etc/hostname": "labels: must be a file of the model's own folder",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_said_of_a_bad_one(text: str) -> None:
    with pytest.raises(NotServable, match=rf"^model\.yaml:? {BAD[text]}") as error:
        read_manifest(text.encode())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(NotServable, match=r"^model\.yaml is no YAML"):
        read_manifest(b"network: \xff\xfe\x00")


def test_at_most_five_problems_are_told() -> None:
    with pytest.raises(NotServable) as error:
        read_manifest((GOOD + "".join(f"key{index}: 1\n" for index in range(1000))).encode())
    assert str(error.value).count("unknown key") == 5


def test_a_folder_without_one(tmp_path: Path, write: Any) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(NotServable, match=r"^the folder is empty; it needs a model\.yaml$"):
        manifest_of(tmp_path / "1")
    (tmp_path / "1" / "weights.safetensors").touch()
    with pytest.raises(NotServable, match=r"^there is no file model\.yaml$"):
        manifest_of(tmp_path / "1")
    (tmp_path / "elsewhere.yaml").write_text(GOOD)
    (tmp_path / "1" / "model.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(NotServable, match=r"^model\.yaml leads out of the model's folder, by a link or by '..'$"):
        manifest_of(tmp_path / "1")


def test_versions() -> None:
    assert read_versions(b"serve: {latest: 2}\ndefault: 3").named == [3]
    assert read_versions(b"serve: [1, 4]").named == [1, 4]
    assert read_versions(b"serve: all").named == []
    for bad in (b"serve: some", b"serve: []", b"serve: [0]", b"serve: {latest: 0}", b"serve: {newest: 1}", b"serve: ['1']"):
        with pytest.raises(NotServable, match=r"^versions\.yaml: serve: must be all, a list of versions, or \{latest: N\}"):
            read_versions(bad)
    with pytest.raises(NotServable, match=r"^versions\.yaml: defualt: unknown key; did you mean default\?"):
        read_versions(b"defualt: 3")


# The schema: whatever the loader accepts, it accepts, and what has other keys or types it does not.

ACCEPTED = [
    GOOD,
    GOOD + "weights: w.safetensors\nlabels: imagenet\nhead: out.0\nscores: sigmoid",
    GOOD + f"weights: {{file: w.pth, sha256: {'a' * 64}, strict: false}}\nlabels: labels.json",
    "network: {factory: 'timm:resnet18.a1_in1k', arguments: {num_classes: 3, x: [1, {y: null}]}}\ninputs: [{image: mnist}]",
    "network: {module: net.py, callable: Make, arguments: {a: b}}\n" + INPUTS,
    "network: {exported: net.pt2}\n" + INPUTS,
    "network: {torchscript: net.pt}\n" + INPUTS,
    f"network: {{onnx: sub/net.onnx, sha256: {'a' * 64}}}\ninputs: [{{shape: [3, [32, 64], [32, 64]], dtype: float16, name: x.y}}]",
    NETWORK + "inputs: [{image: {preset: inception, height: 64, width: 64, resize_shorter: 0, resample: bicubic}}, {shape: [4]}]",
    NETWORK + "inputs: [{image: {color: bgr, height: 8, width: 8, resize_shorter: 9, resample: bilinear, mean: [0, 1.5, 2], "
    "std: [1, 1, 1], range: [0, 255], invert_bright_background: true}}]",
    NETWORK + INPUTS + "serving: {device: 'cuda:1', autocast: bfloat16, threads: 2, max_batch: 4, max_waiting: 9, lanes: 1, "
    "lane_threads: 1, lane_batch: 2, max_waiting_introspections: 0, lazy: true}",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_the_schema_accepts_what_the_loader_accepts(text: str) -> None:
    read_manifest(text.encode())
    schema = Manifest.model_json_schema()
    assert problems(yaml.safe_load(text), schema, schema) == []


@pytest.mark.parametrize(
    "text",
    [text for text, said in BAD.items() if "unknown key" in said or "field required" in said or "input should be" in said],
)
def test_the_schema_refuses_other_keys_and_types(text: str) -> None:
    schema = Manifest.model_json_schema()
    assert problems(yaml.safe_load(text), schema, schema)


@pytest.mark.parametrize("text", ["{}", "serve: all", "serve: [1, 2]\ndefault: 2", "serve: {latest: 3}"])
def test_the_schema_of_versions(text: str) -> None:
    read_versions(text.encode())
    schema = Versions.model_json_schema()
    assert problems(yaml.safe_load(text), schema, schema) == []


TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
SPEAK_ONLY = {"title", "description", "default", "$defs", "$schema"}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> list[str]:
    """What JSON Schema 2020-12 says against a value, as far as our schemas use it; an error for a keyword beyond that."""
    found: list[str] = []
    for keyword, operand in schema.items():
        if keyword not in SPEAK_ONLY:
            found += CHECKS[keyword](value, operand, schema, root)
    return found


def fails(bad: bool, what: str) -> list[str]:
    return [what] if bad else []


def each(values: Any, schema: Any, root: Any) -> list[str]:
    return [problem for value in values for problem in problems(value, schema, root)]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


CHECKS: dict[str, Any] = {
    "$ref": lambda value, to, schema, root: problems(value, root["$defs"][to.removeprefix("#/$defs/")], root),
    "anyOf": lambda value, ways, schema, root: fails(
        all(problems(value, way, root) for way in ways), f"{value!r} is none of {ways}"
    ),
    "type": lambda value, kind, schema, root: fails(
        not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number")), f"{value!r} is no {kind}"
    ),
    "enum": lambda value, members, schema, root: fails(value not in members, f"{value!r} is not in {members}"),
    "const": lambda value, other, schema, root: fails(value != other, f"{value!r} is not {other!r}"),
    "pattern": lambda value, form, schema, root: fails(isinstance(value, str) and not re.search(form, value), f"{value!r}: {form}"),
    "minimum": lambda value, least, schema, root: fails(is_number(value) and value < least, f"{value} < {least}"),
    "exclusiveMinimum": lambda value, least, schema, root: fails(is_number(value) and value <= least, f"{value} <= {least}"),
    "maxLength": lambda value, most, schema, root: fails(isinstance(value, str) and len(value) > most, "too long"),
    "minItems": lambda value, least, schema, root: fails(isinstance(value, list) and len(value) < least, "too few"),
    "maxItems": lambda value, most, schema, root: fails(isinstance(value, list) and len(value) > most, "too many"),
    "items": lambda value, one, schema, root: each(value, one, root) if isinstance(value, list) else [],
    "required": lambda value, keys, schema, root: fails(
        isinstance(value, dict) and not set(keys) <= value.keys(), f"lacks of {keys}"
    ),
    "properties": lambda value, members, schema, root: (
        [problem for key in value.keys() & members.keys() for problem in problems(value[key], members[key], root)]
        if isinstance(value, dict)
        else []
    ),
    "additionalProperties": lambda value, rule, schema, root: (
        []
        if rule is True or not isinstance(value, dict)
        else [f"{key}: unknown" for key in value.keys() - schema.get("properties", {}).keys()]
        if rule is False
        else each([value[key] for key in value.keys() - schema.get("properties", {}).keys()], rule, root)
    ),
}
