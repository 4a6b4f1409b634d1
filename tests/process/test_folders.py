"""A folder of models that is served while it changes."""

import itertools
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from shutil import copy, rmtree

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cutaway
from cutaway.v1 import admin_pb2, admin_pb2_grpc
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from model_folders import GATED, HOLDING, add, image, replace_weights, scores
from server_process import ServerProcess, run_server, wait_until

FACTORY = "cutaway_server.models.mnist.networks:Net"
HELD = image() * 0 + 7
COUNTS_THREADS = """
    assert not IN_TRIAL or os.nice(0) >= 10


    class Threads(Net):
        def forward(self, x):
            return super().forward(x) * 0 + torch.get_num_threads()


    def build(hidden):
        return Threads(hidden)
"""


def policy(root: Path, name: str, **says: object) -> None:
    (root / name / "versions.yaml").write_text(yaml.safe_dump(says))


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files lie that let held calls go on, a folder for each model that holds some."""
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, gates: Path) -> Path:
    root = tmp_path_factory.mktemp("models")
    highest = {"steady": 1, "latest": 3, "two": 3, "every": 2, "listed": 3, "chosen": 3, "new": 1, "hurt": 1, "place": 1}
    for name, versions in highest.items():
        for version in range(1, versions + 1):
            add(root, name, version, seed=version)
    policy(root, "two", serve={"latest": 2})
    policy(root, "every", serve="all", default=1)
    policy(root, "listed", serve=[1, 2, 9])
    policy(root, "chosen", default=1)
    for name, serving in {"going": {}, "narrow": {"max_batch": 2, "max_waiting": 3}}.items():
        (gates / name).mkdir()
        add(root, name, seed=1, after=HOLDING, folder=gates / name, serving=serving)
    add(root, "counts", after=COUNTS_THREADS, serving={"threads": 3, "lane_threads": 2, "lanes": 4})
    digits = root / "digits" / "1"
    digits.mkdir(parents=True)
    copy(str(files("cutaway_server.models.mnist").joinpath("mnist.safetensors")), digits / "w.safetensors")
    manifest = {"network": {"factory": FACTORY}, "weights": "w.safetensors", "inputs": [{"image": "mnist"}]}
    (digits / "model.yaml").write_text(yaml.safe_dump(manifest))
    (root / "README.md").write_text("no model")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    flags = [
        "--allow-code",
        "--allow-factory",
        FACTORY,
        "--poll",
        "0.1",
        "--engine",
        "eager",  # tests/process/test_engines.py has others
        "--threads",
        "1",
        "--max-batch",
        "1",
        "--lanes",
        "1",
        "--max-waiting",
        "4",
    ]
    with run_server("--models", str(root), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=60) as connected:
        yield connected


def listed(client: cutaway.Client, name: str) -> dict[str, tuple[str, str]]:
    return {model.version: (model.state, model.state_reason) for model in client.models() if model.name == name}


def wait_listed(client: cutaway.Client, name: str, version: str, state: str, says: str = "") -> str:
    def stands() -> bool:
        found = listed(client, name).get(version)
        return bool(found) and found[0] == state and says in found[1] and bool(says) == bool(found[1])

    wait_until(stands, 60)
    return listed(client, name)[version][1]


def log_of(server: ServerProcess) -> list[dict[str, str]]:
    return [json.loads(line) for line in server.log().splitlines()]


class Callers:
    """What callers got while they called again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[cutaway.Prediction]] = {}
        self.inside: list[np.ndarray] = []
        self.failures: list[BaseException] = []

    def wait_for_more(self, count: int = 20) -> None:
        """Until each has had so many further answers."""
        before = {model: len(answers) for model, answers in self.answers.items()}
        wait_until(lambda: self.failures or all(len(self.answers[model]) >= had + count for model, had in before.items()), 60)


@contextmanager
def calling(client: cutaway.Client, *models: str) -> Iterator[Callers]:
    """A caller of Predict for each model, and one of Introspect for the first, for as long as the block lasts."""
    callers, done = Callers(), threading.Event()

    def call(model: str, look: bool) -> None:
        try:
            while not done.wait(0.01):  # or on few CPUs little else would go on
                if look:
                    seen = client.introspect(model, image(), layers=["conv"])
                    callers.inside.append(seen.activations["conv"])
                callers.answers[model].append(client.predict(model, x_of(model)))
        except BaseException as error:
            callers.failures.append(error)

    callers.answers = {model: [client.predict(model, x_of(model))] for model in models}
    threads = [
        threading.Thread(target=call, args=(model, look))
        for model, look in [(models[0], True), *zip(models, itertools.repeat(False))]
    ]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not callers.failures


def x_of(model: str) -> np.ndarray:
    return np.ones((1, 1, 28, 28), np.float32) if model == "digits" else image()


def answers_as(client: cutaway.Client, model: str, seed: int, version: str = "") -> bool:
    return np.array_equal(client.predict(model, image(), version=version).scores, scores(seed, image()))


# Versions


@pytest.mark.parametrize(
    ("name", "served", "default"),
    [("latest", "3", 3), ("two", "23", 3), ("every", "12", 1), ("listed", "12", 2), ("chosen", "13", 1), ("digits", "1", None)],
)
def test_versions(client: cutaway.Client, name: str, served: str, default: int | None):
    assert [version for version, (state, _) in listed(client, name).items() if state == "ready"] == list(served)
    assert client.predict(name, x_of(name)).version == str(default or 1)
    if default:
        assert answers_as(client, name, default)
        assert all(answers_as(client, name, int(version), version) for version in served)


def test_a_version_that_is_not_served(client: cutaway.Client):
    with pytest.raises(cutaway.NotFound, match=r"no model 'two' version '1'; there is: two version 2, two version 3"):
        client.predict("two", image(), version="1")


def test_a_version_that_is_asked_for_and_not_there(client: cutaway.Client):
    says = "versions.yaml asks for it, and there is no such folder"
    assert listed(client, "listed")["9"] == ("failed", says)
    with pytest.raises(cutaway.FailedPrecondition, match=says):
        client.predict("listed", image(), version="9")


def test_a_versions_yaml_that_breaks_takes_nothing_away(root: Path, client: cutaway.Client):
    policy(root, "two", serve={"latest": 2}, defualt=1)
    wait_listed(client, "two", "", "failed", "versions.yaml: defualt: unknown key; did you mean default?")
    assert answers_as(client, "two", 3)
    assert answers_as(client, "two", 2, "2")
    policy(root, "two", serve=[1])
    wait_listed(client, "two", "1", "ready")
    wait_until(lambda: list(listed(client, "two")) == ["1"])


# A new version


def test_a_new_version_takes_over_when_it_is_ready(root: Path, client: cutaway.Client, tmp_path: Path, server: ServerProcess):
    loads = server.metric("cutaway_load_seconds_count", model="new")
    with calling(client, "new", "steady", "digits") as callers:
        add(root, "new", 2, seed=2, after=GATED, folder=tmp_path)
        wait_listed(client, "new", "2", "loading")
        assert server.metric("cutaway_models", state="loading") == 1
        callers.wait_for_more()  # while it is tried
        (tmp_path / "try").touch()
        wait_until((tmp_path / "tried").exists, 60)
        callers.wait_for_more()  # while the server itself loads it
        assert {answer.version for answer in callers.answers["new"]} == {"1"}
        (tmp_path / "load").touch()
        wait_listed(client, "new", "2", "ready")
        callers.wait_for_more()
    for name, seeds in {"new": (1, 2), "steady": (1,)}.items():
        expected = {str(seed): scores(seed, image()) for seed in seeds}
        assert all(np.array_equal(answer.scores, expected[answer.version]) for answer in callers.answers[name])
    assert len({answer.scores.tobytes() for answer in callers.answers["digits"]}) == 1
    assert len({seen.tobytes() for seen in callers.inside}) == 2  # one of each version
    wait_until(lambda: list(listed(client, "new")) == ["2"])
    assert server.metric("cutaway_load_seconds_count", model="new") == loads + 1
    assert server.metric("cutaway_live_hooks") == 0


def test_a_broken_new_version_leaves_the_old_one_until_it_is_mended(root: Path, client: cutaway.Client):
    with calling(client, "hurt") as callers:
        place = add(root, "hurt", 2, seed=2, hidden=3, after="def build(hidden): return Net(4)")
        why = wait_listed(client, "hurt", "2", "failed", "conv.weight")
        assert "w.safetensors does not fit the network" in why
        callers.wait_for_more()
        assert {answer.version for answer in callers.answers["hurt"]} == {"1"}
        with pytest.raises(cutaway.FailedPrecondition, match=r"could not be loaded: w\.safetensors does not fit"):
            client.predict("hurt", image(), version="2")
        replace_weights(place, seed=2)
        wait_listed(client, "hurt", "2", "ready")
    wait_until(lambda: list(listed(client, "hurt")) == ["2"])
    assert answers_as(client, "hurt", 2)


# Changes in place


def test_a_change_in_place(root: Path, client: cutaway.Client, tmp_path: Path):
    place = root / "place" / "1"
    with calling(client, "place") as callers:
        replace_weights(place, seed=2)
        wait_until(lambda: answers_as(client, "place", 2), 60)
        broken, good, manifest = tmp_path / "broken.yaml", tmp_path / "good.yaml", place / "model.yaml"
        broken.write_text(manifest.read_text().replace("weights:", "wieghts:"))
        manifest.rename(good)
        broken.rename(manifest)
        why = wait_listed(client, "place", "1", "ready", "wieghts: unknown key; did you mean weights?")
        assert "what was there before serves on" in why
        callers.wait_for_more()
        good.replace(manifest)  # as it was, so it is known to be good
        wait_listed(client, "place", "1", "ready")
    seeds = {scores(seed, image()).tobytes(): seed for seed in (1, 2)}
    order = [seeds[answer.scores.tobytes()] for answer in callers.answers["place"]]
    assert order == sorted(order)
    assert order[-1] == 2


def test_a_folder_that_is_removed_is_unloaded_after_its_calls(
    root: Path, client: cutaway.Client, gates: Path, server: ServerProcess
):
    got: list[cutaway.Prediction] = []
    caller = threading.Thread(target=lambda: got.append(client.predict("going", HELD)))
    caller.start()
    wait_until((gates / "going" / "held").exists)
    (root / "going").rename(root / ".gone")
    wait_until(lambda: not listed(client, "going"))
    with pytest.raises(cutaway.NotFound, match="there is no model 'going'"):
        client.predict("going", image())
    assert not unloaded(server, "going")
    (gates / "going" / "go").touch()
    caller.join()
    assert np.array_equal(got[0].scores, scores(1, HELD))
    wait_until(lambda: unloaded(server, "going"))
    wait_until(lambda: server.metric("cutaway_model_bytes", model="going") == 0)
    rmtree(root / ".gone")


def unloaded(server: ServerProcess, name: str) -> bool:
    return any(line["event"] == "the model was unloaded" and line["model"] == name for line in log_of(server))


# Settings of one model


def test_settings_of_one_model(client: cutaway.Client, gates: Path, server: ServerProcess):
    assert client.predict("counts", image()).scores.max() == 3
    assert client.introspect("counts", image()).prediction.scores.max() == 2
    assert client.model("counts").introspection.lanes == 4
    assert client.model("steady").introspection.lanes == 1

    callers = [threading.Thread(target=client.predict, args=("narrow", x)) for x in (HELD, image(), image(), image())]
    before = server.metric("cutaway_batch_samples_count", model="narrow")
    callers[0].start()
    wait_until((gates / "narrow" / "held").exists)
    for caller in callers[1:]:
        caller.start()
    wait_until(lambda: server.metric("cutaway_predictions_waiting", model="narrow") == 3)
    with pytest.raises(cutaway.ResourceExhausted, match="3 predictions wait already"):
        client.predict("narrow", image())
    (gates / "narrow" / "go").touch()
    for caller in callers:
        caller.join()
    wait_until(lambda: server.metric("cutaway_batch_samples_count", model="narrow") == before + 3)  # of 1, 2 and 1


# Signals, and the admin's service


def test_the_admin_service_is_off(server: ServerProcess):
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        admin_pb2_grpc.AdminServiceStub(channel).ReloadModels(admin_pb2.ReloadModelsRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_admin_service_of_a_server_without_folders():
    settings = load_settings({"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": True, "log_level": "error"})
    with Server([], settings) as bare, grpc.insecure_channel(bare.address) as channel, pytest.raises(grpc.RpcError) as refused:
        admin_pb2_grpc.AdminServiceStub(channel).ReloadModels(admin_pb2.ReloadModelsRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "start it with --models DIR" in refused.value.details()


def test_health_follows_the_first_model_not_the_last(tmp_path: Path):
    """One that hangs in its trial does not keep the server from being ready."""
    add(tmp_path, "one", seed=1)
    add(tmp_path, "other", after=GATED, folder=tmp_path)
    given = {"models": (tmp_path,), "allow_code": True, "log_level": "error", "threads": 1}
    with (
        Server([], load_settings({"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", **given})) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        look = server.reload()
        wait_until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1, 60)
        assert not look.done()
        assert {one.name: one.state.value for one in server.all()} == {"one": "ready", "other": "loading"}
        (tmp_path / "try").touch()
        (tmp_path / "load").touch()
        look.result(60)
        assert {one.state.value for one in server.all()} == {"ready"}


def test_sighup_while_a_model_loads(root: Path, client: cutaway.Client, tmp_path: Path, server: ServerProcess):
    add(root, "slow", seed=1, after=GATED, folder=tmp_path)
    wait_listed(client, "slow", "1", "loading")
    with ThreadPoolExecutor(6) as pool, calling(client, "steady") as callers:
        waiting = [pool.submit(client.predict, "slow", image()) for _ in range(6)]  # of which four may wait
        for _ in range(5):
            server.process.send_signal(signal.SIGHUP)
            callers.wait_for_more(3)
        wait_until(lambda: sum(call.done() for call in waiting) == 2)
        (tmp_path / "try").touch()
        (tmp_path / "load").touch()
        wait_listed(client, "slow", "1", "ready")
    refused = [str(call.exception()) for call in waiting if call.exception()]
    assert refused == ["4 calls for a model that is being loaded wait already, which is the limit; try again in 1 s"] * 2
    assert sum(np.array_equal(call.result().scores, scores(1, image())) for call in waiting if not call.exception()) == 4


def test_sigterm_while_a_model_loads(root: Path, client: cutaway.Client, tmp_path: Path, server: ServerProcess):
    """The last test of this server. In its log each thing that went wrong stands once, not at every look, and nothing else."""
    for version in (1, 2):
        add(tmp_path, "never", version, after=GATED, folder=tmp_path)
    policy(tmp_path, "never", serve="all")
    (tmp_path / "never").rename(root / "never")  # so that one look finds both
    wait_listed(client, "never", "2", "loading")
    ended: list[grpc.StatusCode] = []

    def wait_for_it() -> None:
        try:
            client.predict("never", image())
        except cutaway.Error as error:
            ended.append(error.code)

    caller = threading.Thread(target=wait_for_it)
    caller.start()
    assert answers_as(client, "steady", 1)
    assert server.stop() == 0
    caller.join()
    assert ended == [grpc.StatusCode.UNAVAILABLE]
    errors = [line["reason"] for line in log_of(server) if line["level"] == "error"]
    foreseen = ["asks for it", "defualt", "does not fit", "wieghts"]
    assert [sum(one in reason for reason in errors) for one in foreseen] == [1] * len(foreseen)
    assert len(errors) == len(foreseen)
