"""A folder with all that can be wrong with a model: each is reported in a line, and the good one serves on."""

import json
import os
import pickle
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

import grpc
import numpy as np
import pytest

import cutaway
from cutaway.v1 import admin_pb2, admin_pb2_grpc, model_pb2
from model_folders import HOLDING, add, image, replace_weights, scores
from server_process import ServerProcess, run_server, wait_until


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def network(body: str) -> str:
    return f"""
        class Bad(Net):
            def forward(self, x):
                {body}


        def build(hidden):
            return Bad(hidden)
    """


GROWS = """
    def build(hidden):
        net = Net(hidden)
        net.register_buffer("more", torch.zeros(1 << 19), persistent=False)
        return net
"""

# Name → what ListModels and the log say.
SAID = {
    "no-yaml": "there is no file model.yaml",
    "unknown-key": "model.yaml: netwrok: unknown key; did you mean network?",
    "wrong-type": "model.yaml: serving.lanes: .* not 'two'",
    "no-fit": r"w\.safetensors does not fit the network; .*conv\.weight.*\[4, 1, 3, 3\].*fc\.weight",
    "bomb": "w.pt",
    "digest": "w.safetensors has SHA-256 [0-9a-f]{64}, but model.yaml pins 0{64}",
    "link": "1 is a link out of the folder of models",
    "link-inside": "w.safetensors leads out of the model's folder, by a link",
    "a..b": "'a..b' is no name for a model",
    "-dash": "'-dash' is no name for a model",
    "new\nline": r"is no name for a model",
    "empty": "the folder is empty; it needs a model.yaml",
    "no-version": "it has no version; a model.yaml stands in NAME/VERSION/",
    "good": "an earlier folder of --models has a model of this name, which is served",
    "version-name": "the version folder 'v1' is no number from 1 up",
    "raises": r"the network fails on \[2, 1, 8, 8\]: not today",
    "tells": "module.py, build.*: FileNotFoundError: .*'secret'",
    "nan": "of the 10 scores for a probe 10 are NaN or infinite",
    "hangs": r"it did not load and run within 3 s, which is the limit \(--load-timeout\)",
    "exits": "loading it raises SystemExit",
    "dies": "it ended the process that tried it, with exit code 7",
    "crashes": "it ended the process that tried it, with signal SIGSEGV",
    "big": r"it takes 2\.\d MiB; the budget of all models is 1\.0 MiB",
    "grows": r"it takes 2\.\d MiB; the budget of all models is 1\.0 MiB",
    "hangs-in-server": "it passed its trial, but the server could not load it within 3 s",
    "exits-in-server": "loading it raises SystemExit",
    "loop": "it cannot be read: |loop is a link out of the folder of models",  # by the version of Python
    "loop-inside": "it cannot be read: |there is no file model.yaml",
    "vast": r"model\.yaml has 322,122,547,200 bytes; the limit is 65,536",
    "vast-versions": r"versions\.yaml has 322,122,547,200 bytes; the limit is 65,536",
    "long-default": "it cannot be read: .*digits",
    "long-threads": "it cannot be read: .*digits",
    "rings": r"there is no file w\?\.safetensors",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root, other = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("others")
    add(root, "good", seed=1)
    add(other, "good", seed=2)
    (add(root, "no-yaml") / "model.yaml").unlink()
    add(root, "unknown-key", netwrok={})
    add(root, "wrong-type", serving={"lanes": "two"})
    replace_weights(add(root, "no-fit"), seed=0, hidden=3)
    (add(root, "bomb", weights="w.pt") / "w.pt").write_bytes(pickle.dumps(Bomb(root / "exploded")))
    add(root, "digest", weights={"file": "w.safetensors", "sha256": "0" * 64})
    outside = add(other, "outside").rename(other / ".outside")
    (root / "link").mkdir()
    (root / "link" / "1").symlink_to(outside)
    weights = add(root, "link-inside") / "w.safetensors"
    weights.unlink()
    weights.symlink_to(outside / "w.safetensors")
    (other / "outside").rmdir()
    for name in ("a..b", "-dash", "new\nline"):
        add(root, name)
    (root / "empty" / "1").mkdir(parents=True)
    (root / "no-version").mkdir()
    add(root, "version-name", "v1")
    add(root, "raises", after=network("raise ValueError('not today')"))
    add(root, "tells", after=f"open({str(root / 'secret')!r})")
    add(root, "nan", after=network("return super().forward(x) / 0 * 0"))
    add(root, "hangs", after=network("wait_for(Path('/nowhere'))"))
    add(root, "exits", after="raise SystemExit(3)")
    add(root, "dies", after="os._exit(7)")
    add(root, "crashes", after="os.kill(os.getpid(), signal.SIGSEGV)")
    add(root, "big", hidden=40_000)
    add(root, "grows", after=GROWS)
    add(root, "hangs-in-server", after="IN_TRIAL or wait_for(Path('/nowhere'))")
    add(root, "exits-in-server", after="if not IN_TRIAL: raise SystemExit(3)")
    (root / "loop").symlink_to("loop")
    for name, file in {"loop-inside": "1/model.yaml", "vast": "1/model.yaml", "vast-versions": "versions.yaml"}.items():
        spoilt = add(root, name).parent / file
        spoilt.unlink(missing_ok=True)
        if name == "loop-inside":
            spoilt.symlink_to(spoilt.name)
        else:
            spoilt.touch()
            os.truncate(spoilt, 300 << 30)  # in name only: the disk holds nothing of it
    add(root, "rings", weights="w\a.safetensors")
    add(root, "long-default")
    (root / "long-default" / "versions.yaml").write_text(f"default: 0x{'f' * 5000}")
    with (add(root, "long-threads") / "model.yaml").open("a") as manifest:
        manifest.write(f"serving: {{threads: -0x{'f' * 5000}}}")
    return root, other


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def server(roots: tuple[Path, Path]) -> Iterator[ServerProcess]:
    folders = [word for root in roots for word in ("--models", str(root))]
    limits = ["--load-timeout", "3", "--model-memory-mib", "1", "--drain", "1", "--lanes", "1", "--threads", "1"]
    with run_server(*folders, "--allow-code", "--admin", "--engine", "eager", *limits) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=60) as connected:
        yield connected


def errors_in_log(server: ServerProcess) -> list[dict[str, str]]:
    return [line for line in map(json.loads, server.log().splitlines()) if line["level"] == "error"]


def reasons(client: cutaway.Client) -> dict[str, str]:
    return {model.name: model.state_reason for model in client.models() if model.state == "failed"}


def reload(server: ServerProcess) -> list[model_pb2.Model]:
    with grpc.insecure_channel(server.address) as channel:
        return list(admin_pb2_grpc.AdminServiceStub(channel).ReloadModels(admin_pb2.ReloadModelsRequest(), timeout=60).models)


def shown(name: str) -> str:
    return name.replace("\n", "?")


@pytest.mark.parametrize("name", SAID)
def test_each_is_reported(client: cutaway.Client, server: ServerProcess, name: str):
    reason = reasons(client)[shown(name)]
    assert re.search(SAID[name], reason)
    assert "\n" not in reason
    (line,) = [line for line in errors_in_log(server) if line["model"] in (name, shown(name))]
    assert re.search(SAID[name], line["reason"])


def test_nothing_else_is_reported_and_no_place_is_told(client: cutaway.Client, server: ServerProcess, roots: tuple[Path, Path]):
    assert set(reasons(client)) == set(map(shown, SAID))
    assert len(errors_in_log(server)) == len(SAID)
    assert not (roots[0] / "exploded").exists()
    answers = [model.state_reason for model in client.models()]
    for name in reasons(client):
        if name != "good":
            with pytest.raises(cutaway.FailedPrecondition) as refused:
                client.predict(name, image())
            answers += [str(refused.value), client.model(name).state_reason]
    assert [told for told in answers if str(roots[0].parent) in told or "Traceback" in told] == []


def test_the_good_one_serves(client: cutaway.Client, server: ServerProcess):
    assert np.array_equal(client.predict("good", image()).scores, scores(1, image()))
    assert client.introspect("good", image(), layers=["conv"]).activations["conv"].shape == (1, 4, 6, 6)
    assert server.metric("cutaway_models", state="ready") == 1
    assert server.metric("cutaway_models", state="failed") == len(SAID)


def test_what_is_mended_is_loaded_by_the_admin_and_by_sighup(
    client: cutaway.Client, server: ServerProcess, roots: tuple[Path, Path], gates: Path
):
    """Though a thread of one model hangs for ever."""
    root, other = roots
    for folder in root.iterdir():
        if folder.is_symlink():
            folder.unlink()
        elif folder.name not in ("good", "no-fit"):
            rmtree(folder)
    rmtree(other / "good")
    replace_weights(root / "no-fit" / "1", seed=3)
    stand = {model.name: (model.state, model.state_reason) for model in reload(server)}
    assert stand == dict.fromkeys(("good", "no-fit"), (model_pb2.MODEL_STATE_READY, ""))
    assert np.array_equal(client.predict("no-fit", image()).scores, scores(3, image()))
    add(root, "good", 2, seed=4, after=HOLDING, folder=gates)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: client.predict("good", image()).version == "2", 60)
    assert np.array_equal(client.predict("good", image()).scores, scores(4, image()))


def test_a_folder_of_models_that_vanishes_takes_nothing_away(
    client: cutaway.Client, server: ServerProcess, roots: tuple[Path, Path]
):
    roots[0].rename(roots[0].parent / "moved")
    reload(server)
    assert np.array_equal(client.predict("good", image()).scores, scores(4, image()))
    assert errors_in_log(server)[-1]["event"] == "the folders of models cannot be read; what serves goes on"


def test_what_hangs_does_not_hold_the_end(client: cutaway.Client, gates: Path, server: ServerProcess):
    """The last test of this server: a prediction and a load never end."""
    with ThreadPoolExecutor(1) as caller:
        never = caller.submit(client.predict, "good", image() * 0 + 7)
        wait_until((gates / "held").exists)
        assert server.stop() == 0
        assert isinstance(never.exception(), cutaway.Error)
    assert "Fatal" not in server.log()
