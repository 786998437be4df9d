"""The service files, the container files and the chart: what their own tools say of them, and what must be in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.environment import with_environment
from config.loading import parse_settings
from dicom_node.state import EXIT_USAGE
from dicom_node.supervisor import GRACE_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "config" / "deploy"
UNIT = DEPLOY / "systemd" / "dicom-node.service"
CHART = DEPLOY / "helm" / "lowdose-node"
HELM = ROOT / ".charts" / "bin" / "python"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
needs_helm = pytest.mark.skipif(not HELM.exists(), reason="no .charts: scripts/test makes it")

SETTINGS = """[node]
database_url = "postgresql://lowdose:secret@db/lowdose"
[storage]
folder = "/srv/lowdose"
"""


def said(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def unit_lines(unit: Path = UNIT) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"^\w+=", line))


@needs_systemd
@pytest.mark.parametrize("drop_in", [None, "gpu.conf", "low-port.conf"])
def test_systemd_knows_every_line_of_the_service(tmp_path: Path, drop_in: str | None) -> None:
    unit = tmp_path / UNIT.name
    # The program need not be installed for its unit to be right.
    unit.write_text(UNIT.read_text().replace("/opt/lowdose/bin/dicom-node", "/bin/true"))
    if drop_in:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(DEPLOY / "systemd" / drop_in, folder)
    result = said("systemd-analyze", "verify", unit)
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
def test_the_service_is_closed_as_far_as_systemd_can_tell(tmp_path: Path) -> None:
    unit = shutil.copy(UNIT, tmp_path)
    # 10 is open to everything; systemd calls what is below 2 "OK", and a plain service has 9.6.
    result = said("systemd-analyze", "security", "--offline=true", "--threshold=15", unit)
    assert result.returncode == 0, result.stdout[-300:]


def test_the_service_gives_the_processes_their_time_and_does_not_try_wrong_settings_again() -> None:
    lines = unit_lines()
    drain_s = parse_settings({}).node.drain_s
    assert float(lines["TimeoutStopSec"]) > 3 * (drain_s + GRACE_S)
    assert lines["RestartPreventExitStatus"] == str(EXIT_USAGE)
    assert lines["OOMPolicy"] == "continue"


@needs_compose
@pytest.mark.parametrize("over", [[], ["compose.postgresql.yaml"], ["compose.cuda.yaml"]])
def test_docker_compose_takes_its_files(over: list[str]) -> None:
    files = [part for name in ["compose.yaml", *over] for part in ("-f", str(DEPLOY / "docker" / name))]
    result = said("docker-compose", *files, "config")
    assert result.returncode == 0, result.stderr
    node = yaml.safe_load(result.stdout)["services"]["node"]
    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]


def test_the_image_takes_all_that_the_program_is_made_of_and_runs_as_nobody_of_the_host() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) /src", text, re.MULTILINE))
    assert copied == {"config", "model", "training", "dicom_node"}
    assert "USER 10001:10001" in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(ignored)


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    script = ROOT / "tests" / "support" / "render_chart.py"
    result = subprocess.run(
        [HELM, script, CHART], input=json.dumps(values), capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@needs_helm
def test_the_chart_makes_manifests_that_kubernetes_takes() -> None:
    found = rendered(
        {
            "settings": SETTINGS,
            "receiver": {"service": {"tlsPort": 2762, "annotations": {"a": "b"}}},
            "worker": {"resources": {"limits": {"nvidia.com/gpu": 1}}, "nodeSelector": {"gpu": "yes"}},
            "sharedFolder": {"existingClaim": "objects"},
            "certificateSecrets": ["node-tls"],
            "environmentSecrets": ["bucket"],
            "networkPolicy": {"enabled": True, "from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
            "metrics": {"serviceMonitor": {"enabled": True}},
        }
    )
    assert (found["lint"], found["refused"], found["invalid"]) == ([], None, [])
    sets = {one["metadata"]["name"]: one for one in found["documents"] if one["kind"] == "StatefulSet"}
    assert set(sets) == {"radiology-receiver", "radiology-worker"}
    for one in sets.values():
        [container] = one["spec"]["template"]["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    [service] = [
        one for one in found["documents"] if one["metadata"]["name"] == "radiology" and one["kind"] == "Service"
    ]
    # Otherwise every object would come from an address of the cluster, and sources.hosts could tell nothing.
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert [port["name"] for port in service["spec"]["ports"]] == ["dicom", "dicom-tls"]


@needs_helm
def test_what_the_chart_sets_is_understood_by_the_node() -> None:
    found = rendered({"settings": SETTINGS})
    for one in found["documents"]:
        if one["kind"] != "StatefulSet":
            continue
        [container] = one["spec"]["template"]["spec"]["containers"]
        # What Kubernetes fills in is a pod's name.
        environment = {entry["name"]: entry.get("value", "radiology-worker-0") for entry in container["env"]}
        raw, _ = with_environment({}, environment)
        settings = parse_settings(raw)
        assert settings.node.name == "radiology-worker-0"
        assert str(settings.node.data_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}
        grace_s = one["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace_s > settings.node.drain_s + GRACE_S
    [secret] = [one for one in found["documents"] if one["kind"] == "Secret"]
    assert secret["stringData"]["node.toml"].strip() == SETTINGS.strip()


@needs_helm
def test_a_release_without_settings_is_refused_with_what_to_do() -> None:
    assert "name a Secret in existingSecret" in rendered({})["refused"]
    found = rendered({"existingSecret": "mine"})
    assert found["refused"] is None
    assert not [one for one in found["documents"] if one["kind"] == "Secret"]
