"""The files of cluster/, checked by schemas, Ray's readers and rules; each rule is also shown to find something."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.kuberay_schema import SCHEMAS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.37"
Document = dict[str, Any]
Break = Callable[[Any], object]

PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = "3.11"
IMAGE = f"gpt2-search:{PROJECT['version']}-ray{PINS['ray']}-py{PYTHON.replace('.', '')}"

LAUNCHERS = ["aws.yaml", "gcp.yaml"]
KUBERAY = ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"]
PLAIN = ["kuberay/namespace.yaml", *(f"mlflow/kubernetes/{n}.yaml" for n in ("mlflow", "network", "postgres", "store"))]
COMPOSE, RUNTIME_ENV = "mlflow/compose.yaml", "runtime_env.yaml"
YAML = [*LAUNCHERS, *KUBERAY, *PLAIN, COMPOSE, RUNTIME_ENV]


@cache
def parsed(name: str) -> list[Document]:
    return [document for document in yaml.safe_load_all((CLUSTER / name).read_text()) if document]


def documents(name: str) -> list[Document]:
    """Return what the file holds, without YAML's aliases: a change in one place is none in another."""
    return json.loads(json.dumps(parsed(name)))


def broken(document: Document, change: Break) -> Document:
    changed = copy.deepcopy(document)
    change(changed)
    return changed


def walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(child)
    if isinstance(value, str):
        yield value


def test_every_yaml_file_is_checked_here() -> None:
    assert {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*.yaml")} == set(YAML)


# Clusters that `ray up` makes


def launched(config: Document) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    except (jsonschema.ValidationError, ValueError, AssertionError) as error:
        return [f"Ray refuses it: {str(error).splitlines()[0]}"]
    types = dict(prepared["available_node_types"])
    head, docker = types.pop(prepared["head_node_type"]), prepared["docker"]
    commands = {key: " ".join(value) for key, value in prepared.items() if key.endswith("commands")}
    opened = prepared["provider"].get("security_group", {}).get("IpPermissions", [])
    rules = {
        "the head runs no trial": head["resources"].get("CPU") == head["resources"].get("GPU") == 0,
        "the head is no worker": head["max_workers"] == 0,
        "the head is on demand": not {"InstanceMarketOptions", "scheduling"} & set(head["node_config"]),
        "workers start from none": all(kind["min_workers"] == 0 for kind in types.values()),
        "workers are spot": all(
            kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
            or kind["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
            for kind in types.values()
        ),
        "workers have GPUs": all(kind["resources"].get("GPU") for kind in types.values())
        and "--gpus=all" in docker["worker_run_options"],
        "there is a cap": sum(kind["max_workers"] for kind in types.values()) == prepared["max_workers"] > 0,
        "idle workers go": 0 < prepared["idle_timeout_minutes"] <= 15,
        "nothing that is stopped is paid for": prepared["provider"].get("cache_stopped_nodes") is False,
        "the dashboard is on loopback": "--dashboard-host=127.0.0.1" in commands["head_start_ray_commands"],
        "Ray asks for a token": "--env=RAY_AUTH_MODE=token" in docker["run_options"],
        "the token is a file that is copied": any(
            option.startswith("--env=RAY_AUTH_TOKEN_PATH=") and option.rsplit("/", 1)[0].endswith(remote.lstrip("~/"))
            for option in docker["run_options"]
            for remote in prepared["file_mounts"]
        ),
        "telemetry is off": "--env=RAY_USAGE_STATS_ENABLED=0" in docker["run_options"],
        "nothing is installed": not re.search(r"pip|wheel|conda", " ".join(commands.values())),
        "no port but 22": all(rule["FromPort"] == rule["ToPort"] == 22 for rule in opened),
    }
    return [rule for rule, holds in rules.items() if not holds]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_up_gets_what_was_promised(name: str) -> None:
    [config] = documents(name)
    assert launched(config) == []


@pytest.mark.parametrize(("wrong", "change"), [
    ("Ray refuses it", lambda c: c.update(idle_timeout="5")),
    ("Ray refuses it", lambda c: c.update(max_workers="4")),
    ("Ray refuses it", lambda c: c["docker"].pop("container_name")),
    ("the head runs no trial", lambda c: c["available_node_types"]["head"]["resources"].update(CPU=2)),
    ("the head is no worker", lambda c: c["available_node_types"]["head"].update(max_workers=1)),
    ("the head is on demand", lambda c: c["available_node_types"]["head"]["node_config"].update(scheduling={})),
    ("workers start from none", lambda c: c["available_node_types"]["gpu"].update(min_workers=1)),
    ("workers are spot", lambda c: c["available_node_types"]["gpu"].update(node_config={})),
    ("workers have GPUs", lambda c: c["docker"].update(worker_run_options=[])),
    ("there is a cap", lambda c: c.update(max_workers=100)),
    ("idle workers go", lambda c: c.update(idle_timeout_minutes=600)),
    ("nothing that is stopped is paid for", lambda c: c["provider"].pop("cache_stopped_nodes")),
    ("the dashboard is on loopback", lambda c: c.pop("head_start_ray_commands")),
    ("Ray asks for a token", lambda c: c["docker"]["run_options"].remove("--env=RAY_AUTH_MODE=token")),
    ("the token is a file that is copied", lambda c: c.update(file_mounts={})),
    ("telemetry is off", lambda c: c["docker"]["run_options"].remove("--env=RAY_USAGE_STATS_ENABLED=0")),
    ("nothing is installed", lambda c: c.pop("setup_commands")),
    ("nothing is installed", lambda c: c.pop("head_setup_commands")),
    (
        "no port but 22",
        lambda c: c["provider"].update(security_group={"IpPermissions": [{"FromPort": 22, "ToPort": 8265}]}),
    ),
])  # fmt: skip
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_promise_of_ray_up_that_is_broken_is_found(name: str, wrong: str, change: Break) -> None:
    [config] = documents(name)
    assert wrong in [problem.split(":")[0] for problem in launched(broken(config, change))]


# Clusters and jobs of KubeRay


def cluster_of(document: Document) -> Document:
    spec: Document = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def templates(document: Document) -> list[Document]:
    cluster = cluster_of(document)
    found = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    submitter = document["spec"].get("submitterPodTemplate")
    return [*found, submitter] if submitter else found


def autoscaled(document: Document) -> Document:
    """What Ray's autoscaler makes of the cluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr({"metadata": document["metadata"], "spec": cluster_of(document)})


def orchestrated(document: Document) -> list[str]:
    try:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
        for template in templates(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        types = autoscaled(document)["available_node_types"]
    except (jsonschema.ValidationError, ValueError, KeyError) as error:
        return [f"it is refused: {str(error).splitlines()[0]}"]
    head, cluster, spec = types.pop("headgroup"), cluster_of(document), document["spec"]
    rules = {
        "the head runs no trial": head["resources"]["CPU"] == head["resources"]["GPU"] == 0,
        "workers start from none": all(kind["min_workers"] == 0 for kind in types.values()),
        "workers have GPUs": all(kind["resources"].get("GPU") == 1 for kind in types.values()),
        "there is a cap": all(0 < kind["max_workers"] <= 16 for kind in types.values()),
        "the cluster scales": cluster.get("enableInTreeAutoscaling") is True,
        "idle workers go": 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 900,
        "Ray asks for a token": cluster.get("authOptions") == {"mode": "token"},
        "the version is the pinned one": cluster["rayVersion"] == PINS["ray"],
        "pods get time to end": all(
            group["template"]["spec"].get("terminationGracePeriodSeconds", 0) >= 30
            for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        ),
        "passwords come from a Secret": all(
            {"secretRef": {"name": "gpt2-search"}} in group["template"]["spec"]["containers"][0]["envFrom"]
            for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        ),
        "the job is tried again, and ends": document["kind"] == "RayCluster"
        or (
            spec.get("backoffLimit", 0) > 0
            and spec.get("activeDeadlineSeconds", 0) > 0
            and spec.get("shutdownAfterJobFinishes") is True
            and spec.get("ttlSecondsAfterFinished", 0) > 0
        ),
        "the search has a constant name": document["kind"] == "RayCluster" or "--name " in spec["entrypoint"],
        "the search is told the cap": document["kind"] == "RayCluster"
        or f"--max-concurrent {types['gpu']['max_workers']}" in spec["entrypoint"],
        **confined([template["spec"] for template in templates(document)]),
    }
    return [rule for rule, holds in rules.items() if not holds]


def confined(pods: list[Document]) -> dict[str, bool]:
    """Rules of pods: who they run as, and what they may use."""
    containers = [container for pod in pods for container in pod["containers"]]
    contexts = [container.get("securityContext", {}) for container in containers]
    return {
        "pods are not root": all(pod.get("securityContext", {}).get("runAsNonRoot") is True for pod in pods)
        and all(pod["securityContext"].get("runAsUser", 0) > 0 for pod in pods),
        "containers gain nothing": all(
            context.get("allowPrivilegeEscalation") is False and context.get("capabilities") == {"drop": ["ALL"]}
            for context in contexts
        ),
        "requests and limits are said": all(
            {"cpu", "memory"} <= set(container.get("resources", {}).get(bound, {}))
            for container in containers
            for bound in ("requests", "limits")
        ),
    }


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_gets_what_was_promised(name: str) -> None:
    [document] = documents(name)
    assert orchestrated(document) == []


@pytest.mark.parametrize(("wrong", "change"), [
    ("it is refused", lambda c: c.update(ray_version="2")),
    ("it is refused", lambda c: c.pop("headGroupSpec")),
    ("it is refused", lambda c: c["authOptions"].update(mode="password")),
    ("it is refused", lambda c: c["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})),
    ("it is refused", lambda c: c["workerGroupSpecs"][0]["template"]["spec"].update(tolerance=[])),
    ("it is refused", lambda c: c["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].pop("name")),
    ("the head runs no trial", lambda c: c["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
    ("workers start from none", lambda c: c["workerGroupSpecs"][0].update(minReplicas=1)),
    ("there is a cap", lambda c: c["workerGroupSpecs"][0].update(maxReplicas=1000)),
    ("the cluster scales", lambda c: c.pop("enableInTreeAutoscaling")),
    ("Ray asks for a token", lambda c: c.pop("authOptions")),
    ("the version is the pinned one", lambda c: c.update(rayVersion="2.9.0")),
    (
        "passwords come from a Secret",
        lambda c: c["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(envFrom=[]),
    ),
    ("pods are not root", lambda c: c["headGroupSpec"]["template"]["spec"]["securityContext"].update(runAsUser=0)),
    (
        "containers gain nothing",
        lambda c: c["headGroupSpec"]["template"]["spec"]["containers"][0].pop("securityContext"),
    ),
    (
        "requests and limits are said",
        lambda c: c["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"].pop("limits"),
    ),
])  # fmt: skip
def test_a_promise_of_kuberay_that_is_broken_is_found(wrong: str, change: Break) -> None:
    [document] = documents("kuberay/rayjob.yaml")
    problems = orchestrated(broken(document, lambda job: change(job["spec"]["rayClusterSpec"])))
    assert wrong in [problem.split(":")[0] for problem in problems]


@pytest.mark.parametrize(
    "field", ["backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"]
)
def test_a_job_that_would_stay_is_found(field: str) -> None:
    [document] = documents("kuberay/rayjob.yaml")
    assert orchestrated(broken(document, lambda job: job["spec"].pop(field))) == ["the job is tried again, and ends"]


def test_a_job_starts_the_same_cluster_that_stays() -> None:
    [cluster], [job] = documents("kuberay/raycluster.yaml"), documents("kuberay/rayjob.yaml")
    assert cluster["spec"] == job["spec"]["rayClusterSpec"]


# MLflow's server, and the namespace


@pytest.mark.parametrize("name", PLAIN)
def test_kubernetes_knows_every_field(name: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document | {"specs": {}}, KUBERNETES, strict=True)


def inside(found: list[Document]) -> list[str]:
    """What of these Kubernetes objects can be reached from outside, or runs as more than it must."""
    by_kind: dict[str, list[Document]] = {}
    for document in found:
        by_kind.setdefault(document["kind"], []).append(document)
    workloads = [one["spec"]["template"] for kind in ("Deployment", "StatefulSet") for one in by_kind.get(kind, [])]
    policies = by_kind.get("NetworkPolicy", [])
    guarded = json.dumps([policy["spec"]["podSelector"] for policy in policies])
    rules = {
        "services are inside": all(one["spec"].get("type") == "ClusterIP" for one in by_kind.get("Service", [])),
        "nothing lets the world in": not by_kind.keys() & {"Ingress", "Gateway", "HTTPRoute"},
        "pods are guarded": all(f'"{one["metadata"]["labels"]["app"]}"' in guarded for one in workloads),
        "guards name who may pass": all(rule.get("from") for policy in policies for rule in policy["spec"]["ingress"]),
        **confined([one["spec"] for one in workloads]),
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_only_pods_of_the_namespace_reach_mlflow() -> None:
    found = [document for name in PLAIN for document in documents(name)]
    assert inside(found) == []
    service = next(index for index, document in enumerate(found) if document["kind"] == "Service")
    published = broken(found[service], lambda document: document["spec"].update(type="LoadBalancer"))
    assert inside([published]) == ["services are inside"]
    assert inside([document for document in found if document["kind"] != "NetworkPolicy"]) == ["pods are guarded"]


def composed(document: Document) -> list[str]:
    from check_jsonschema.builtin_schemas import get_builtin_schema

    try:
        jsonschema.validate(document, get_builtin_schema("vendor.compose-spec"))
    except jsonschema.ValidationError as error:
        return [f"it is refused: {error.message}"]
    services = document["services"]
    rules = {
        "ports are on loopback": all(
            str(port).startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", [])
        ),
        "one port is open": [name for name, service in services.items() if service.get("ports")] == ["mlflow"],
        "the stores are inside": document["networks"]["inside"] == {"internal": True}
        and all(services[name]["networks"] == ["inside"] for name in ("postgres", "store")),
        "containers gain nothing": all(
            service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
            for service in services.values()
        ),
        "secrets are files": all(secret["file"].startswith("${SECRETS:?") for secret in document["secrets"].values()),
    }
    return [rule for rule, holds in rules.items() if not holds]


def test_compose_publishes_mlflow_on_loopback_and_nothing_else() -> None:
    [document] = documents(COMPOSE)
    assert composed(document) == []


@pytest.mark.parametrize(("wrong", "change"), [
    ("it is refused", lambda c: c["services"]["mlflow"].update(imagine="x")),
    ("ports are on loopback", lambda c: c["services"]["mlflow"].update(ports=["5000:5000"])),
    ("one port is open", lambda c: c["services"]["store"].update(ports=["127.0.0.1:9000:8080"])),
    ("the stores are inside", lambda c: c["networks"]["inside"].pop("internal")),
    ("containers gain nothing", lambda c: c["services"]["store"].update(cap_drop=[])),
    ("secrets are files", lambda c: c["secrets"]["admin_password"].update(file="/tmp/password")),
])  # fmt: skip
def test_a_compose_file_that_opens_more_is_found(wrong: str, change: Break) -> None:
    [document] = documents(COMPOSE)
    assert wrong in [problem.split(":")[0] for problem in composed(broken(document, change))]


@pytest.mark.parametrize("name", [COMPOSE, "mlflow/kubernetes/mlflow.yaml"])
def test_the_server_gets_every_secret_that_its_script_reads(name: str) -> None:
    read = set(re.findall(r"\$secrets/(\w+)", (CLUSTER / "mlflow/serve.sh").read_text()))
    assert len(read) == 5
    if name == COMPOSE:
        [document] = documents(name)
        assert set(document["services"]["mlflow"]["secrets"]) == set(document["secrets"]) == read
    else:
        [volume] = documents(name)[1]["spec"]["template"]["spec"]["volumes"]
        assert volume["secret"] == {"secretName": "mlflow", "defaultMode": 0o440}  # all of its keys
    readme = (CLUSTER / "README.md").read_text()
    assert all(secret in readme for secret in read)


# What holds in every file


def images(document: Any) -> list[str]:
    return [text for part in walk(document) if isinstance(part, dict) for key, text in part.items() if key == "image"]


def unpinned(image: str) -> bool:
    """Whether the image may be another one tomorrow, or is ours with versions that are not the project's."""
    name, _, tag = image.rpartition(":")
    ours = name.rsplit("/", 1)[-1] == "gpt2-search"
    return not re.fullmatch(r"v?\d+\.\d+.*", tag) or (ours and f"gpt2-search:{tag}" != IMAGE)


def test_every_image_is_pinned_and_ours_has_the_pinned_versions() -> None:
    found = [image for name in YAML for image in images(parsed(name))]
    assert len([image for image in found if image.endswith(f"/{IMAGE}")]) >= 8
    assert [image for image in found if unpinned(image)] == []
    assert IMAGE in (CLUSTER / "Dockerfile").read_text()
    assert all(re.fullmatch(r"rclone/rclone:\d+\.\d+\.\d+", image) for image in found if "rclone" in image)
    for wrong in ("postgres", "postgres:latest", "postgres:15", "a/gpt2-search:0.2.0-ray2.9.0-py311"):
        assert unpinned(wrong)


SECRET = re.compile(r"\w*(TOKEN|PASSWORD|SECRET|ACCESS_KEY|API_KEY|PRIVATE_KEY)\w*", re.IGNORECASE)
NOT_SECRET = re.compile(r"\w*(_PATH|_FILE)$|secretName|automountServiceAccountToken|HttpTokens", re.IGNORECASE)


def told(document: Any) -> list[str]:
    """The names of passwords, tokens and keys whose value the document tells."""
    said: list[tuple[str, Any]] = []
    for part in walk(document):
        if isinstance(part, dict):
            said += [(part["name"], part["value"])] if {"name", "value"} <= part.keys() else part.items()
        else:
            said += re.findall(r"(\w+)=(?=[\"']?([^\s\"']+))", part)
    return [
        name
        for name, value in said
        if isinstance(value, str)
        and SECRET.fullmatch(str(name))
        and not NOT_SECRET.fullmatch(str(name))
        and not re.match(r"\$\{\w+:\?|\$\$?\(cat |\\?$", value)
    ]


@pytest.mark.parametrize("name", YAML)
def test_no_file_tells_a_secret(name: str) -> None:
    assert told(parsed(name)) == []


@pytest.mark.parametrize("document", [
    {"env": [{"name": "RAY_AUTH_TOKEN", "value": "x"}]},
    {"environment": {"POSTGRES_PASSWORD": "x"}},
    {"run_options": ["--env=RAY_AUTH_TOKEN=x"]},
    {"environment": {"AWS_SECRET_ACCESS_KEY": "${AWS_SECRET_ACCESS_KEY:-x}"}},
    {"command": ["export MLFLOW_TRACKING_PASSWORD='x'; mlflow server"]},
])  # fmt: skip
def test_a_told_secret_is_found(document: Document) -> None:
    assert told(document)


def test_no_file_holds_anything_that_looks_like_a_key() -> None:
    key = re.compile(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b|://\w+:[^$@\s]+@")
    files = [path for path in CLUSTER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path.name for path in files if key.search(path.read_text())] == []
    assert key.search("postgresql://mlflow:hunter2@postgres/mlflow")


# The image, the job's runtime environment, and the page that explains it all


def test_the_image_is_pinned_and_its_user_is_not_root() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = ("FROM", "USER", "ENV", "RUN")
    told_by = {word: [line.split(maxsplit=1)[1] for line in lines if line.startswith(word)] for word in words}
    [base], [user] = told_by["FROM"], told_by["USER"]
    assert re.fullmatch(rf"python:{re.escape(PYTHON)}\.\d+-slim-bookworm", base)
    assert f">={PYTHON}" == PROJECT["requires-python"]
    assert f"--uid {user} --create-home --shell /bin/bash search" in " ".join(told_by["RUN"])
    assert lines[-1] == f"USER {user}"
    assert user.isdigit()  # Kubernetes does not believe in names
    assert "HOME=/home/search" in " ".join(told_by["ENV"]).split()  # `ray up` looks for it
    installs = [part for run in told_by["RUN"] for part in run.split("&&") if "pip install" in part]
    named = [word.strip("'") for part in installs for word in part.split() if not word.startswith(("-", "'."))]
    packages = {re.split(r"[\[=]", word)[0] for word in named} - {"pip", "install", "constraints.txt", "texts"}
    assert packages == {"google-api-python-client"}
    assert "'.[embedding,server]'" in " ".join(installs)
    assert packages <= PINS.keys()
    assert all("--constraint constraints.txt" in part or "pip==" in part for part in installs)


def test_the_image_gets_what_the_package_is_made_of() -> None:
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    kept = [line[1:].rstrip("/") for line in ignored if line.startswith("!")]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {*kept} == {
        *(name.rstrip("*") for name in packages), "LICENSE", "README.md", "constraints.txt", "pyproject.toml",
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in kept)


def test_a_job_uploads_the_project_and_no_more(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package
    from ray.runtime_env import RuntimeEnv

    [told_env] = documents(RUNTIME_ENV)
    assert {".git/", ".venv/", "runs/", "tests/"} <= set(told_env["excludes"])
    assert RuntimeEnv(**told_env).env_vars()["RAY_USAGE_STATS_ENABLED"] == "0"
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=told_env["excludes"])
    names = ZipFile(package).namelist()
    needed = {"searches/lora_rank.py", "trainables/candidates/__main__.py", "gpt2core/model.py", "cluster/connect.py"}
    assert needed <= set(names)
    assert not {".git", ".venv", "runs", "tests"} & {name.split("/")[0] for name in names}
    assert package.stat().st_size < 5 * 2**20


def test_the_makefile_works_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b%20c#?"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", "--no-print-directory", "--dry-run", "--old-file=setup", "ui", "job", "search", "nano"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    words = [shlex.split(line) for line in said.splitlines()]  # each line is whole for a shell
    assert [line[0].rpartition("/")[2] for line in words] == ["echo", "mlflow", "python", "python", "python"]
    assert folder.name not in said


def test_searches_know_the_flags_that_clusters_give_them() -> None:
    from searches.flags import parser

    known = parser("lora_rank", "?", ["quick"]).format_help()
    [job] = documents("kuberay/rayjob.yaml")
    page = re.sub(r"\\\n\s*", "", (CLUSTER / "README.md").read_text())
    commands = [job["spec"]["entrypoint"], *re.findall(r"python searches/.*", page)]
    flags = {flag for command in commands for flag in re.findall(r"--[a-z-]+", command.split("#")[0])}
    assert {"--name", "--max-concurrent", "--gpus-per-worker"} <= flags
    assert [flag for flag in sorted(flags) if f"{flag} " not in known] == []


def missing(text: str, folders: tuple[Path, ...]) -> list[str]:
    named = re.findall(r"(?<![\w/.~$-])(?:cluster|searches|tests|trainables|gpt2core|kuberay|mlflow)/[\w./*-]+\w", text)
    return [path for path in named if not any(list(folder.glob(path)) for folder in folders)]


def test_paths_that_the_page_names_exist_and_each_file_is_named() -> None:
    page = (CLUSTER / "README.md").read_text()
    assert missing(page, (ROOT, CLUSTER)) == []
    assert missing("see cluster/azure.yaml", (ROOT, CLUSTER)) == ["cluster/azure.yaml"]
    assert [name for name in [*YAML, "Dockerfile"] if Path(name).name not in page and "kubernetes/" not in name] == []


@pytest.mark.parametrize("name", [*LAUNCHERS, *KUBERAY, "mlflow/kubernetes/mlflow.yaml"])
def test_the_page_says_what_fills_a_file_in(name: str) -> None:
    """`envsubst` puts in what it is told; what it is not told stays, such as $RAY_HEAD_IP, which Ray fills in."""
    used = set(re.findall(r"\$([A-Z]+)\b(?!_)", re.sub(r"^\s*#.*", "", (CLUSTER / name).read_text(), flags=re.M)))
    page = (CLUSTER / "README.md").read_text()
    lines = [line for line in page.splitlines() if "envsubst" in line]
    lines = [line for line in lines if name in line or f"{Path(name).parent}/*" in line]
    assert lines, f"the page does not fill in {name}"
    for line in lines:
        assert set(re.findall(r"\$([A-Z]+)", line.split("envsubst '")[1].split("'")[0])) == used


def test_what_is_mounted_and_built_from_exists() -> None:
    [compose] = documents(COMPOSE)
    build = compose["services"]["mlflow"]["build"]
    context = (CLUSTER / "mlflow" / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    script = documents("mlflow/kubernetes/mlflow.yaml")[1]["spec"]["template"]["spec"]["containers"][0]["command"][1]
    assert compose["services"]["mlflow"]["command"][1] == script
    assert (ROOT / script).is_file()
