"""Models that are in memory only while they are asked for: the budget, and lazy loading."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cutaway
from model_folders import CLASSES, GATED, HOLDING, add, image, replace_weights, scores
from server_process import ServerProcess, run_server, wait_until

HIDDEN = 7_000
BYTES = 4 * HIDDEN * (9 + 1 + CLASSES) + 4 * CLASSES  # two of these fit into 1 MiB
HELD = image() * 0 + 7


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, gates: Path) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc", 1):
        (gates / name).mkdir()
        add(root, name, seed=seed, hidden=HIDDEN, after=HOLDING, folder=gates / name, serving={"lazy": False})
    (add(root, "lazy", seed=4, hidden=HIDDEN) / "training.log").write_bytes(bytes(2 << 20))  # counts for nothing
    add(root, "worse", 1, seed=5, hidden=HIDDEN, serving={"lazy": False})
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    budget = ["--model-memory-mib", "1", "--drain", "1", "--lazy", "--engine", "eager"]
    with run_server("--models", str(root), "--allow-code", *budget, "--threads", "1", "--max-batch", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=60) as connected:
        yield connected


def states(client: cutaway.Client) -> dict[str, str]:
    return {model.name: model.state for model in client.models()}


def ask(client: cutaway.Client, name: str, seed: int) -> None:
    assert np.allclose(client.predict(name, image()).scores, scores(seed, image(), HIDDEN), rtol=1e-4, atol=1e-4)


def loads(server: ServerProcess, name: str) -> float:
    return server.metric("cutaway_load_seconds_count", model=name)


def test_beyond_the_budget_the_one_asked_for_longest_ago_is_parked(client: cutaway.Client, server: ServerProcess):
    assert states(client) == {"a": "parked", "b": "parked", "c": "ready", "lazy": "parked", "worse": "ready"}
    assert [server.metric("cutaway_models", state=state) for state in ("ready", "parked", "failed", "loading")] == [2, 3, 0, 0]
    assert server.metric("cutaway_model_bytes") == 2 * BYTES
    assert server.metric("cutaway_model_bytes", model="a") == 0
    reasons = {model.name: model.state_reason for model in client.models()}
    assert "the memory budget is full; it is loaded when it is asked for" in reasons["a"]
    assert reasons["lazy"] == "it is loaded when it is first asked for"
    ask(client, "b", 2)
    ask(client, "a", 1)
    assert states(client) | {"a": "ready", "b": "ready", "c": "parked", "worse": "parked"} == states(client)
    assert [loads(server, name) for name in ("a", "b", "c", "lazy")] == [2, 2, 1, 0]


def test_many_callers_load_a_parked_model_once(client: cutaway.Client, server: ServerProcess):
    before = loads(server, "c")
    with ThreadPoolExecutor(16) as callers:
        list(callers.map(lambda _: ask(client, "c", 3), range(16)))
    assert loads(server, "c") == before + 1


def test_models_in_use_are_not_parked(client: cutaway.Client, server: ServerProcess, gates: Path):
    ask(client, "b", 2)
    ask(client, "c", 3)
    with ThreadPoolExecutor(2) as callers:
        predicted = callers.submit(client.predict, "b", HELD)
        seen = callers.submit(client.introspect, "c", HELD, layers=["fc"])
        wait_until(lambda: all((gates / name / "held").exists() for name in "bc"))
        try:
            with pytest.raises(
                cutaway.ResourceExhausted, match=r"model 'a' is not in memory, and the models in use fill .* 1\.0 MiB"
            ):
                client.predict("a", image())
            assert states(client) | {"a": "parked", "b": "ready", "c": "ready"} == states(client)
        finally:
            for name in "bc":
                (gates / name / "go").touch()
        assert np.allclose(predicted.result().scores, scores(2, HELD, HIDDEN), rtol=1e-4, atol=1e-4)
        assert np.allclose(seen.result().activations["fc"], scores(3, HELD, HIDDEN), rtol=1e-4, atol=1e-4)
    ask(client, "a", 1)


def test_a_lazy_model_is_loaded_by_the_first_call(client: cutaway.Client, server: ServerProcess):
    assert loads(server, "lazy") == 0
    assert client.model("lazy").state == "ready"
    ask(client, "lazy", 4)
    assert loads(server, "lazy") == 1


def look(server: ServerProcess, client: cutaway.Client, **stand: str) -> None:
    """Has it look at the folders, and waits until these models stand so."""
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: states(client) | stand == states(client), 60)


def test_a_lazy_version_that_fails_takes_nobodys_place(client: cutaway.Client, root: Path, server: ServerProcess):
    before = states(client)
    add(root, "later", 1, seed=6)
    look(server, client, later="parked")
    add(root, "later", 2, after="raise ValueError('not today')")
    add(root, "large", hidden=HIDDEN, after="raise ValueError('nor tomorrow')", serving={"lazy": False})
    look(server, client, large="failed", later="failed")
    found = {model.version: (model.state, model.state_reason) for model in client.models() if model.name == "later"}
    assert found["1"] == ("parked", "it is loaded when it is first asked for")
    assert "not today" in found["2"][1]
    assert np.allclose(client.predict("later", image()).scores, scores(6, image()))
    assert states(client) | before == states(client)  # none was parked for what failed
    errors = [line["reason"] for line in map(json.loads, server.log().splitlines()) if line["level"] == "error"]
    assert [sum(says in reason for reason in errors) for says in ("not today", "nor tomorrow")] == [1, 1]
    assert len(errors) == 2


def test_what_hangs_holds_up_no_other(client: cutaway.Client, root: Path, gates: Path, server: ServerProcess):
    """Neither one that is parked, nor one whose turn to be tried has not come."""
    ask(client, "b", 2)
    ask(client, "c", 3)
    assert states(client)["a"] == "parked"
    add(root, "hangs", after=GATED, folder=gates)
    add(root, "sound", seed=7)
    add(root, "unsound", after="raise ValueError('not today')")
    look(server, client, hangs="loading", sound="loading", unsound="loading")
    ask(client, "a", 1)
    assert np.allclose(client.predict("sound", image()).scores, scores(7, image()))
    with pytest.raises(cutaway.FailedPrecondition, match="not today"):
        client.predict("unsound", image())
    assert states(client) | {"hangs": "loading", "sound": "ready", "unsound": "failed"} == states(client)
    (gates / "try").touch()
    wait_until(lambda: states(client)["hangs"] == "parked", 60)
    assert loads(server, "sound") == 1


def test_what_serves_goes_on_where_its_successor_finds_no_room(
    client: cutaway.Client, root: Path, gates: Path, server: ServerProcess
):
    for sign in ("held", "go"):
        (gates / "b" / sign).unlink()
    ask(client, "a", 1)
    manifest = root / "a" / "1" / "model.yaml"
    manifest.write_text(manifest.read_text().replace(str(HIDDEN), "11000"))
    replace_weights(root / "a" / "1", seed=8, hidden=11_000)
    with ThreadPoolExecutor(1) as caller:
        held = caller.submit(client.predict, "b", HELD)
        wait_until((gates / "b" / "held").exists)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "serves on: it waits for memory" in client.model("a").state_reason, 60)
        assert states(client)["a"] == "ready"
        ask(client, "a", 1)
        (gates / "b" / "go").touch()
        held.result()
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not client.model("a").state_reason, 60)
    assert np.allclose(client.predict("a", image()).scores, scores(8, image(), 11_000), rtol=1e-4, atol=1e-4)


def test_sigterm_while_the_server_itself_loads_a_model(client: cutaway.Client, root: Path, gates: Path, server: ServerProcess):
    """The last test of this server."""
    add(root, "late", after=GATED, folder=gates)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "late" in states(client))
    with ThreadPoolExecutor(1) as caller:
        waits = caller.submit(client.predict, "late", image())
        wait_until((gates / "tried").exists, 60)
        assert server.stop() == 0
        with pytest.raises(cutaway.Unavailable):
            waits.result()
    assert [
        line for line in server.log().splitlines() if '"error"' in line and "not today" not in line and "nor tomorrow" not in line
    ] == []
