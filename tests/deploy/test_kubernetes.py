"""The Kubernetes manifests: whole, restricted, and in agreement with each other and with the image."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from config import Settings
from tests.support.deploy_kit import (
    DEPLOY,
    ROLES,
    dockerfile,
    image_variables,
    manifests,
    objects,
    of_kubernetes,
    pods,
    read_yaml,
)
from worker.http.openapi import document_of

DIRECTORY = DEPLOY / "kubernetes"
KUSTOMIZATION = read_yaml(DIRECTORY / "kustomization.yaml")
SECRET = read_yaml(DIRECTORY / "secret.example.yaml")
PODS = pods()
USER = int(dict(dockerfile())["USER"].partition(":")[0])


def _container(role: str) -> dict[str, Any]:
    (container,) = PODS[role]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_kustomization_names_every_file_but_the_form_of_the_secret() -> None:
    files = {path.name for path in DIRECTORY.iterdir()}

    assert set(KUSTOMIZATION["resources"]) == files - {"kustomization.yaml", "secret.example.yaml"}


def test_the_secrets_form_holds_no_value_and_has_its_name() -> None:
    assert set(SECRET["stringData"].values()) == {""}
    for pod in PODS.values():
        (volume,) = [each for each in pod["spec"]["volumes"] if "secret" in each]
        assert volume["secret"]["secretName"] == SECRET["metadata"]["name"]


def test_no_secret_is_in_the_config_map() -> None:
    (config,) = objects("ConfigMap")

    assert set(config["data"]) & set(SECRET["stringData"]) == set()


def test_there_are_two_of_each_and_never_are_both_taken_away_at_once() -> None:
    workloads = {each["metadata"]["name"]: each for each in objects("Deployment", "StatefulSet")}
    budgets = {each["metadata"]["name"]: each["spec"] for each in objects("PodDisruptionBudget")}

    assert set(workloads) == set(budgets) == {f"evergrant-{role}" for role in ROLES}
    for name, workload in workloads.items():
        assert workload["spec"]["replicas"] == 2
        assert budgets[name]["maxUnavailable"] == 1
        assert budgets[name]["selector"] == workload["spec"]["selector"]


def test_every_selector_finds_the_pods_of_one_role_and_no_others() -> None:
    labels = {role: pod["metadata"]["labels"] for role, pod in PODS.items()}
    for each in objects("Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
        selector = each["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        found = [role for role in ROLES if wanted.items() <= labels[role].items()]

        assert found == [each["metadata"]["name"].removeprefix("evergrant-")]


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_is_given_no_variables_of_services_because_they_would_be_taken_for_settings(role: str) -> None:
    """A Service called evergrant-web would set EVERGRANT_WEB_SERVICE_HOST, which is refused at start."""
    assert PODS[role]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_runs_under_the_restricted_profile_as_the_images_user(role: str) -> None:
    pod, container = PODS[role]["spec"], _container(role)

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["fsGroup"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    (namespace,) = objects("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["name"] == KUSTOMIZATION["namespace"]


@pytest.mark.parametrize("role", ROLES)
def test_every_volume_that_is_mounted_is_there(role: str) -> None:
    (worker,) = objects("StatefulSet")
    claimed = {each["metadata"]["name"] for each in worker["spec"]["volumeClaimTemplates"]}
    there = {each["name"] for each in PODS[role]["spec"]["volumes"]} | (
        claimed if role == "worker" else set()
    )

    assert {each["name"] for each in _container(role)["volumeMounts"]} == there


def test_each_worker_has_a_volume_of_its_own_for_its_journal() -> None:
    (worker,) = objects("StatefulSet")
    (claim,) = worker["spec"]["volumeClaimTemplates"]

    assert worker["metadata"]["name"] == "evergrant-worker"
    assert claim["metadata"]["name"] == "data"
    assert worker["spec"]["serviceName"] in {each["metadata"]["name"] for each in objects("Service")}


def test_every_process_has_the_data_directory_of_the_image() -> None:
    assert {each.mounts["data"] for each in of_kubernetes().values()} == {
        image_variables()["EVERGRANT_DATA_DIR"]
    }


def test_ports_and_probes_lead_to_what_the_service_answers_without_a_key() -> None:
    http, metrics = _container("web")["ports"]
    (service,) = [each for each in objects("Service") if each["metadata"]["name"] == "evergrant-web"]
    probes = {kind: _container("web")[f"{kind}Probe"].get("httpGet") for kind in ("liveness", "readiness")}

    assert http["containerPort"] == Settings(data_dir=DIRECTORY).http_port
    assert str(metrics["containerPort"]) == of_kubernetes()["web"].variables["EVERGRANT_METRICS_PORT"]
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [http["name"], metrics["name"]]
    assert probes == {
        "liveness": {"path": "/livez", "port": http["name"]},
        "readiness": {"path": "/readyz", "port": http["name"]},
    }
    assert {probe["path"] for probe in probes.values()} <= set(document_of([])["paths"])


def test_every_container_is_the_image_that_the_kustomization_renames() -> None:
    (renamed,) = KUSTOMIZATION["images"]

    assert {_container(role)["image"] for role in ROLES} == {renamed["name"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kubectl_makes_of_the_kustomization_what_the_files_say() -> None:
    done = subprocess.run(  # noqa: S603 it only reads
        [str(shutil.which("kubectl")), "kustomize", str(DIRECTORY)],
        check=True,
        capture_output=True,
        text=True,
    )
    made = list(yaml.safe_load_all(done.stdout))

    assert {(each["kind"], each["metadata"]["name"]) for each in made} == {
        (each["kind"], each["metadata"]["name"]) for each in manifests()
    }
    (renamed,) = KUSTOMIZATION["images"]
    assert f"image: {renamed['newName']}:{renamed['newTag']}" in done.stdout
    assert {each["metadata"].get("namespace") for each in made if each["kind"] != "Namespace"} == {
        "evergrant"
    }
