"""The files of `deploy/` as those programs read them that they are for: which processes start, and how."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ROLES = ("worker", "beat", "web")
INSTALLED = "/opt/evergrant"  # where the image and the systemd units have it

Document = dict[str, Any]


@dataclass(frozen=True)
class Started:
    """One process as one platform starts it.

    Attributes:
        platform: the file that says so.
        role: `worker`, `beat` or `web`.
        command: its words.
        stop_seconds: how long it may take to end.
        probes: the commands that look whether it is alive.
        mounts: where a volume is, by what it is: `data` or `secrets`.
        variables: what it is given as variables, secrets aside.
    """

    platform: str
    role: str
    command: tuple[str, ...]
    stop_seconds: float | None = None
    probes: tuple[tuple[str, ...], ...] = ()
    mounts: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.platform}-{self.role}"


def read_yaml(path: Path) -> Document:
    """A file that holds one document."""
    (document,) = yaml.safe_load_all(path.read_text())
    assert isinstance(document, dict)
    return document


# The image


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with what follows it."""
    text = re.sub(r"^ *#.*\n", "", (DEPLOY / "container" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name]


def image_variables() -> dict[str, str]:
    """What the image sets."""
    words = [word for name, rest in dockerfile() if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def build_steps() -> list[str]:
    """The shell commands of the Dockerfile's first stage."""
    stages = [number for number, (name, _) in enumerate(dockerfile()) if name == "FROM"]
    return [rest for name, rest in dockerfile()[: stages[1]] if name == "RUN"]


def admitted_to_image() -> list[str]:
    """The files and directories that `.dockerignore` lets in."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")]


def image_command() -> tuple[str, ...]:
    """What a container does that is told nothing else."""
    return tuple(json.loads(dict(dockerfile())["CMD"]))


# The Procfile, Heroku's too


def of_procfile(path: Path) -> dict[str, Started]:
    """Its processes by role. A shell fills in its variables, none of which is set."""
    found = {}
    for line in path.read_text().splitlines():
        role, _, command = line.partition(": ")
        words = tuple(shlex.split(re.sub(r"\$\{\w+:-(\w+)\}", r"\1", command)))
        found[role] = Started(str(path.relative_to(ROOT)), role, words)
    return found


# Compose


def compose() -> Document:
    """The compose file; its anchors and merges are YAML's own."""
    return read_yaml(DEPLOY / "compose.yaml")


def of_compose() -> dict[str, Started]:
    """Its processes by role."""
    return {role: _of_service(role, compose()["services"][role]) for role in ROLES}


def _of_service(role: str, service: Document) -> Started:
    mounts = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            mounts["data"] = volume.split(":")[1]
        else:
            mounts[Path(volume["source"]).name] = volume["target"]
    return Started(
        "compose",
        role,
        tuple(service["command"]),
        float(service["stop_grace_period"].removesuffix("s")),
        (tuple(service["healthcheck"]["test"][1:]),),
        mounts,
        image_variables() | _of_env_file(DEPLOY / f"{service['env_file']}.example") | service["environment"],
    )


def _of_env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# Kubernetes


def manifests() -> Iterator[Document]:
    """Every object of the kustomization."""
    directory = DEPLOY / "kubernetes"
    for name in read_yaml(directory / "kustomization.yaml")["resources"]:
        yield from yaml.safe_load_all((directory / name).read_text())


def objects(*kinds: str) -> list[Document]:
    """Those of these kinds."""
    return [each for each in manifests() if each["kind"] in kinds]


def pods() -> dict[str, Document]:
    """What each workload makes its pods from, by role."""
    workloads = objects("Deployment", "StatefulSet")
    return {
        each["metadata"]["name"].removeprefix("evergrant-"): each["spec"]["template"] for each in workloads
    }


def of_kubernetes() -> dict[str, Started]:
    """Its processes by role."""
    return {role: _of_pod(role, pod["spec"]) for role, pod in pods().items()}


def _of_pod(role: str, pod: Document) -> Started:
    (container,) = pod["containers"]
    (config,) = objects("ConfigMap")
    probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")]
    before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    return Started(
        "kubernetes",
        role,
        tuple(container["command"]),
        pod["terminationGracePeriodSeconds"] - float(before[1]),
        tuple(tuple(probe["exec"]["command"]) for probe in probes if "exec" in probe),
        {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]},
        image_variables() | config["data"],
    )


# systemd


def unit(path: Path) -> list[tuple[str, str]]:
    """A unit's settings, of all its sections."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def of_systemd() -> dict[str, Started]:
    """Its processes by role, on a machine where /opt/evergrant is first in the path."""
    names = {"worker": "worker@", "beat": "beat", "web": "web@"}
    return {
        role: _of_unit(role, DEPLOY / "systemd" / f"evergrant-{name}.service") for role, name in names.items()
    }


def _of_unit(role: str, path: Path) -> Started:
    settings = unit(path)
    said = dict(settings)
    places = {"%S": "/var/lib", "%d": "/run/credentials/unit", "%i": "8000"}
    words = [word for name, value in settings if name == "Environment" for word in value.split()]
    variables = _of_env_file(DEPLOY / "evergrant.env.example")
    for name, value in (word.split("=", 1) for word in words):
        variables[name] = re.sub("%[Sdi]", lambda found: places[found[0]], value)
    command = said["ExecStart"].removeprefix(f"{INSTALLED}/bin/")
    command = re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], command)
    return Started(
        "systemd",
        role,
        tuple(command.split()),
        float(said["TimeoutStopSec"].removesuffix("s")),
        mounts={"data": f"/var/lib/{said['StateDirectory']}", "secrets": places["%d"]},
        variables=variables,
    )
