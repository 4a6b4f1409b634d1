"""The Dockerfile and the Kubernetes manifests say what the server's settings say."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cutaway_server.process.settings import Settings, split_address
from cutaway_server.rpc.inference import SERVICE
from cutaway_server.rpc.open_inference.service import OPEN_INFERENCE
from server_process import ServerProcess

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
K8S = {file.name: yaml.safe_load(file.read_text()) for file in (ROOT / "k8s").glob("*.yaml")}
KSERVE = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "k8s" / "kserve").glob("*.yaml")}
POD = K8S["deployment.yaml"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENV = {entry["name"]: entry for entry in CONTAINER["env"]}
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}


def docker_env() -> dict[str, str]:
    """The ENV of the last stage."""
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :].replace("\\\n", " ")
    (env,) = re.findall(r"^ENV (.+)$", last_stage, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in env.split())


def setting_of(variable: str) -> str:
    prefix = str(Settings.model_config["env_prefix"])
    assert variable.startswith(prefix)
    return variable.removeprefix(prefix).lower()


def set_values(variables: dict[str, str]) -> Settings:
    """Settings as these variables make them; each must name one."""
    named = {setting_of(variable): value for variable, value in variables.items()}
    assert named.keys() <= Settings.model_fields.keys()
    return Settings(**named)


def flags_of(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def deployed() -> Settings:
    """The settings of the pod, those that the image brings included."""
    own = {name: entry["value"] for name, entry in ENV.items()}
    return set_values({name: value for name, value in (docker_env() | own).items() if name.startswith("CUTAWAY_")})


def test_flags_are_the_commands():
    words = [*CONTAINER.get("command", []), *CONTAINER.get("args", [])]
    for line in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", DOCKERFILE, re.MULTILINE):
        words += yaml.safe_load(line)
    assert words[:2] == ["cutaway", "serve"]
    assert flags_of(words) <= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}


def test_the_image_listens_on_the_ports_it_exposes():
    settings = set_values({name: value for name, value in docker_env().items() if name.startswith("CUTAWAY_")})
    addresses = [split_address(settings.listen), split_address(settings.metrics)]
    assert {host for host, _ in addresses} == {"0.0.0.0"}
    (exposed,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert [port for _, port in addresses] == [int(port) for port in exposed.split()]


def test_the_image_runs_as_nobody_special():
    (user,) = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"10001(:\d+)?", user)
    assert str(POD["securityContext"]["runAsUser"]) == user.partition(":")[0]


def test_the_image_is_made_of_what_the_context_holds():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in sources.split()
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / source).exists() for source in copied)


def test_the_pods_addresses_and_ports_agree():
    settings = deployed()
    assert split_address(settings.listen) == ("0.0.0.0", PORTS["grpc"])
    assert split_address(settings.metrics) == ("0.0.0.0", PORTS["metrics"])


def test_the_service_leads_to_the_pod():
    service = K8S["service.yaml"]["spec"]
    ports = {port["name"]: port for port in service["ports"]}
    assert {name: port["targetPort"] for name, port in ports.items()} == {name: name for name in PORTS}
    assert {name: port["port"] for name, port in ports.items()} == PORTS
    assert ports["grpc"]["appProtocol"] == "kubernetes.io/h2c"
    labels = K8S["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert K8S["deployment.yaml"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("probe", "service"), [("startupProbe", SERVICE), ("readinessProbe", SERVICE), ("livenessProbe", "")])
def test_probes_ask_for_what_the_server_answers(probe: str, service: str, live_server: ServerProcess):
    assert CONTAINER[probe]["grpc"] == {"port": PORTS["grpc"], "service": service}
    assert_serving(service, live_server)


def assert_serving(service: str, live_server: ServerProcess) -> None:
    with grpc.insecure_channel(live_server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_pod_lives_longer_than_its_drain():
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > sleep + deployed().drain


def test_threads_follow_the_cpu_limit():
    """The server reads it from its cgroup: tests/models/test_cpus.py."""
    assert "CUTAWAY_THREADS" not in ENV
    assert "cpu" in CONTAINER["resources"]["limits"]


# A folder of models of one's own

OWN = ROOT / "k8s/own-models"


def test_a_folder_of_ones_own_models_is_mounted_where_the_server_looks():
    component = yaml.safe_load((OWN / "kustomization.yaml").read_text())
    assert component["kind"] == "Component"
    (patch,) = [yaml.safe_load((OWN / found["path"]).read_text()) for found in component["patches"]]
    assert patch["metadata"]["name"] == K8S["deployment.yaml"]["metadata"]["name"]
    pod = patch["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == CONTAINER["name"]
    settings = set_values({entry["name"]: entry["value"] for entry in container["env"]})
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert settings.models == (Path(mount["mountPath"]),)
    assert settings.poll > 0
    assert mount["name"] == volume["name"]
    assert (mount["readOnly"], volume["persistentVolumeClaim"]["readOnly"]) == (True, True)
    probe = {**CONTAINER["startupProbe"], **container["startupProbe"]}
    assert probe["periodSeconds"] * probe["failureThreshold"] > 2 * settings.load_timeout


def test_the_readme_puts_them_together(tmp_path: Path):
    """With kustomize itself where kubectl is there, and else by what the files say."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "k8s/README.md").read_text(), re.DOTALL)
    whole = yaml.safe_load(example)
    folders = [(ROOT / "overlay" / place).resolve() for place in (*whole["resources"], *whole["components"])]
    assert folders == [ROOT / "k8s", OWN]
    if kubectl := shutil.which("kubectl"):
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        (tmp_path / "overlay").mkdir()
        (tmp_path / "overlay/kustomization.yaml").write_text(example)
        made = subprocess.run([kubectl, "kustomize", tmp_path / "overlay"], capture_output=True, text=True, check=True).stdout
        (deployment,) = [found for found in yaml.safe_load_all(made) if found["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert variables.keys() == ENV.keys() | {"CUTAWAY_MODELS", "CUTAWAY_POLL"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/models"}
        assert container["resources"] == CONTAINER["resources"]


def test_the_pod_may_do_nothing_it_need_not():
    security: dict[str, Any] = CONTAINER["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not POD["automountServiceAccountToken"]
    assert not POD["enableServiceLinks"]
    volumes = {volume["name"] for volume in POD["volumes"] if "emptyDir" in volume}
    assert {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount["name"] in volumes} == {"/tmp"}


def test_the_image_has_the_projects_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CONTAINER["image"] == f"cutaway:{version}"
    assert K8S["kustomization.yaml"]["images"] == [{"name": "cutaway", "newTag": version}]
    named = {file for file in K8S if file != "kustomization.yaml"}
    assert set(K8S["kustomization.yaml"]["resources"]) == named


def test_kserves_runtime_is_set_as_the_server_is():
    (container,) = KSERVE["servingruntime"]["spec"]["containers"]
    assert container["name"] == "kserve-container"  # which KServe looks for
    assert container["image"] == CONTAINER["image"]
    assert flags_of(container["args"]) <= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    settings = set_values({entry["name"]: str(entry.get("value", "2")) for entry in container["env"]})
    (port,) = container["ports"]  # another would have KServe's gateway forward one service alone
    assert port["name"] == "h2c"
    assert split_address(settings.listen) == ("0.0.0.0", port["containerPort"])
    annotations = KSERVE["servingruntime"]["spec"]["annotations"]
    assert split_address(settings.metrics) == ("0.0.0.0", int(annotations["prometheus.kserve.io/port"]))
    assert annotations["prometheus.kserve.io/path"] == "/metrics"
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["runAsNonRoot"]
    assert str(security["runAsUser"]) in DOCKERFILE


@pytest.mark.parametrize(
    ("probe", "service"), [("startupProbe", OPEN_INFERENCE), ("readinessProbe", OPEN_INFERENCE), ("livenessProbe", "")]
)
def test_kserves_probes_ask_for_what_the_server_answers(probe: str, service: str, live_server: ServerProcess):
    (container,) = KSERVE["servingruntime"]["spec"]["containers"]
    assert container[probe]["grpc"] == {"port": container["ports"][0]["containerPort"], "service": service}
    assert_serving(service, live_server)


def test_kserves_service_asks_for_the_runtime():
    runtime, model = KSERVE["servingruntime"], KSERVE["inferenceservice"]["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
