"""The files in deploy/ are valid and consistent, as far as tests without an engine or a cluster can tell."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.integrations.base_image import ROOT
from tests.integrations.charts import CHART, DEPLOY, HELM, KUBERNETES, SECURE, needs_helm, render, run
from tests.integrations.images import stages
from tests.stores import StoreServer, valkey_program

BIN = Path(sys.executable).parent
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH")


def validate(manifests: str, tmp_path: Path) -> list[dict[str, Any]]:
    """Return the Kubernetes objects after strict validation by Kubernetes' schemas, which finds misspelt fields."""
    file = tmp_path / "manifests.yaml"
    file.write_text(manifests)
    run(BIN / "kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, file)
    return [manifest for manifest in yaml.safe_load_all(manifests) if manifest]


def containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all containers of a Deployment."""
    pod = manifest["spec"]["template"]["spec"]
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def assert_confined(manifest: dict[str, Any]) -> None:
    """Check that all containers meet the restricted pod security standard and have a read-only root."""
    pod = manifest["spec"]["template"]["spec"]
    for container in containers(manifest):
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"], container["name"]
        assert context["readOnlyRootFilesystem"], container["name"]
        assert context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, container["name"]


def sidecar_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the native sidecar of the only Deployment."""
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    assert_confined(deployment)
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for container in containers(deployment) for mount in container["volumeMounts"]} == volumes
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert isinstance(sidecar, dict)
    return sidecar


def test_validation_finds_a_misspelt_field(tmp_path: Path) -> None:
    """The validation of the other tests rejects a field that Kubernetes would silently ignore."""
    manifest = (DEPLOY / "kubernetes/base/conversation.yaml").read_text()
    validate(manifest, tmp_path)
    with pytest.raises(AssertionError, match="readOnlyRootFileSystem"):
        validate(manifest.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"), tmp_path)


@needs_kubectl
def test_kustomize_base(tmp_path: Path) -> None:
    """The base adds the sidecar to a pod, with probes that need no network."""
    sidecar = sidecar_of(validate(run("kubectl", "kustomize", DEPLOY / "kubernetes/base"), tmp_path))
    for probe in ("startupProbe", "livenessProbe"):
        assert sidecar[probe]["exec"]["command"] == ["session-notes", "health", "--service", "live"]
    assert "readinessProbe" not in sidecar
    assert "ports" not in sidecar


@needs_kubectl
def test_kustomize_overlay_with_redis(tmp_path: Path) -> None:
    """The example overlay uses a registry's images, and Redis over TLS with a password file, not an embedded store."""
    manifests = validate(run("kubectl", "kustomize", DEPLOY / "kubernetes/overlays/example"), tmp_path)
    sidecar = sidecar_of(manifests)
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"agents"}
    assert sidecar["image"].startswith("registry.example.org/session-notes:")
    assert "SESSION_NOTES_REDIS_PASSWORD_FILE" in {variable["name"] for variable in sidecar["env"]}
    assert "session-notes-data" not in {mount["name"] for mount in sidecar["volumeMounts"]}


@needs_kubectl
def test_kustomize_readiness_component(tmp_path: Path) -> None:
    """Only the component `readiness` makes the pod's readiness follow the store."""
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    (tmp_path / "kubernetes/test").mkdir()
    kustomization = {"resources": ["../base"], "components": ["../readiness"]}
    (tmp_path / "kubernetes/test/kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    sidecar = sidecar_of(validate(run("kubectl", "kustomize", tmp_path / "kubernetes/test"), tmp_path))
    assert sidecar["readinessProbe"]["exec"]["command"][-1] == "ready"


LIVE, READY = {"path": "/livez", "port": "metrics"}, {"path": "/readyz", "port": "metrics"}


@needs_kubectl
def test_kustomize_metrics_components(tmp_path: Path) -> None:
    """The component `metrics` opens a port that all probes use, instead of commands."""
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    (tmp_path / "kubernetes/test").mkdir()
    kustomization = {"resources": ["../base"], "components": ["../metrics", "../metrics/readiness"]}
    (tmp_path / "kubernetes/test/kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    sidecar = sidecar_of(validate(run("kubectl", "kustomize", tmp_path / "kubernetes/test"), tmp_path))
    probes = {name: sidecar[name].get("httpGet") for name in sidecar if name.endswith("Probe")}
    assert probes == {"startupProbe": LIVE, "livenessProbe": LIVE, "readinessProbe": READY}
    assert all("exec" not in sidecar[name] for name in probes)
    (port,) = sidecar["ports"]
    (listen,) = [item["value"] for item in sidecar["env"] if item["name"] == "SESSION_NOTES_METRICS_LISTEN"]
    assert (port["name"], listen) == ("metrics", f"0.0.0.0:{port['containerPort']}")


@needs_helm
@pytest.mark.parametrize(
    ("listen", "over_http"),
    [("0.0.0.0:9464", True), ("[::]:9464", True), (":9464", True), ("127.0.0.1:9464", False), ("[::1]:9464", False)],
)
def test_chart_probes_the_metrics_port(listen: str, over_http: bool, tmp_path: Path) -> None:
    """The chart probes over HTTP if the kubelet can reach the metrics' address, and with commands otherwise."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"settings": {"SESSION_NOTES_METRICS_LISTEN": listen}}))
    rendered = validate(render(CHART, *SECURE, "--values", str(values)), tmp_path)
    (deployment,) = [manifest for manifest in rendered if manifest["kind"] == "Deployment"]
    (container,) = containers(deployment)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 50051} | ({"metrics": 9464} if over_http else {})
    for name, request in (("startupProbe", LIVE), ("livenessProbe", LIVE), ("readinessProbe", READY)):
        assert container[name].get("httpGet") == (request if over_http else None)
        assert ("exec" in container[name]) != over_http


@needs_helm
def test_chart(tmp_path: Path) -> None:
    """The chart renders a Deployment with TLS and tokens whose readiness follows the store, and its Service."""
    run(HELM or "", "lint", "--strict", CHART, *SECURE)
    deployment, service = sorted(validate(render(CHART, *SECURE), tmp_path), key=lambda manifest: str(manifest["kind"]))
    assert_confined(deployment)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (container,) = containers(deployment)
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["readinessProbe"]["exec"]["command"][-1] == "ready"
    assert container["livenessProbe"]["exec"]["command"][-1] == "live"


@needs_helm
@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ((), "redis.url is empty"),
        (("--set", "redis.url=redis://redis"), "deployment.tlsSecret and tokensSecret"),
        (("--set", "redis.url=redis://redis,deployment.tlsSecret=tls"), "deployment.tlsSecret and tokensSecret"),
        ((*SECURE, "--set", "redis.uri=x"), "uri"),
        ((*SECURE, "--set", "settings.SESSION_TTL=12h"), "SESSION_TTL"),
        ((*SECURE, "--set", "settings.SESSION_NOTES_GRACE=20s"), "set graceSeconds instead"),
        ((*SECURE, "--set", "settings.SESSION_NOTES_REDIS_URL=redis://other"), "set redis.url instead"),
    ],
)
def test_chart_rejects_values(flags: tuple[str, ...], error: str) -> None:
    """Values that leave sessions unprotected or in one store per pod, or that are misspelt, are errors."""
    assert HELM is not None
    command = [HELM, "template", "notes", str(CHART), "--kube-version", KUBERNETES, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert error in done.stderr


@needs_helm
def test_chart_sets_no_variable_twice(tmp_path: Path) -> None:
    """An address in `settings` replaces the chart's. Server-side apply rejects a list with one twice."""
    listen = "[::]:50051 unix:/run/session-notes/sidecar/grpc.sock"
    flags = ("--set", f"settings.SESSION_NOTES_LISTEN={listen}")
    rendered = validate(render(CHART, *SECURE, *flags), tmp_path)
    (deployment,) = [manifest for manifest in rendered if manifest["kind"] == "Deployment"]
    (container,) = containers(deployment)
    names = [item["name"] for item in container["env"]]
    assert len(names) == len(set(names))
    assert {"name": "SESSION_NOTES_LISTEN", "value": listen} in container["env"]


@needs_helm
def test_example_chart(tmp_path: Path) -> None:
    """The example chart depends on the chart and renders the same sidecar as the kustomize base."""
    shutil.copytree(DEPLOY / "helm", tmp_path / "helm")
    run(HELM or "", "dependency", "build", tmp_path / "helm/example")
    sidecar = sidecar_of(validate(render(tmp_path / "helm/example"), tmp_path))
    other = yaml.safe_load((DEPLOY / "kubernetes/sidecar/sidecar.yaml").read_text())
    (base,) = other["spec"]["template"]["spec"]["initContainers"]
    for key in ("startupProbe", "livenessProbe", "resources", "securityContext", "volumeMounts"):
        assert sidecar[key] == base[key], key


def test_chart_schema() -> None:
    """The chart's schema is valid and accepts the chart's defaults."""
    run(BIN / "check-jsonschema", "--check-metaschema", CHART / "values.schema.json")
    run(BIN / "check-jsonschema", "--schemafile", CHART / "values.schema.json", CHART / "values.yaml")


def test_compose_file() -> None:
    """The file follows the compose specification after its YAML merges, and Valkey accepts its service's arguments."""
    file = DEPLOY / "compose/compose.yaml"
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    services = yaml.safe_load(file.read_text())["services"]
    for name in ("sidecar", "primary", "observer"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["build"].get("target", "sidecar") in stages()
        assert service["volumes"] == ["sockets:/run/session-notes"]
        assert (ROOT / service["build"]["dockerfile"]).exists()
    arguments = services["valkey"]["command"].split()
    assert arguments[0] == "valkey-server"
    with StoreServer(valkey_program(), arguments[1:]) as store, redis.Redis.from_url(store.url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}
    uid, gid = stages()["sidecar"].image.user.split(":")
    options = yaml.safe_load(file.read_text())["volumes"]["sockets"]["driver_opts"]["o"]
    assert f"uid={uid},gid={gid}" in options


def test_dockerfile() -> None:
    """hadolint has no findings, and commands run without a shell, as a numeric user other than root."""
    run(BIN / "hadolint", DEPLOY / "docker/Dockerfile")
    image = stages()["sidecar"].image
    assert image.entrypoint == ["session-notes"]
    assert image.command == ["serve"]
    assert image.healthcheck == ["session-notes", "health", "--service", "live"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user)
    assert image.stop_signal == "SIGTERM"
    # The build context contains only the copied files.
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    copied = [*stages()["build"].copied, *stages()["examples"].copied]
    included = {f"!{source}" for *sources, _ in copied for source in sources}
    assert {line for line in ignored if line.startswith("!")} == included
    assert "*" in ignored


YAMLLINT = """
extends: default
rules:
  line-length: {max: 120, allow-non-breakable-inline-mappings: true}
  document-start: disable
"""


def test_yaml_style() -> None:
    """yamllint has no findings in the YAML files that are not templates."""
    files = [file for file in DEPLOY.rglob("*.yaml") if "templates" not in file.parts]
    assert len(files) > 10
    run(
        BIN / "yamllint",
        "--strict",
        "--config-data",
        YAMLLINT,
        *files,
    )


def test_versions_agree() -> None:
    """The image, the charts and the manifests have the version of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert stages()["sidecar"].image.labels["org.opencontainers.image.version"] == version
    text = "\n".join(
        file.read_text()
        for file in DEPLOY.rglob("*")
        if file.suffix in {".yaml", ".tpl"} or (not file.suffix and file.is_file())
    )
    tagged = re.findall(r"session-notes(?:-examples)?:(\d[\w.]*)", text) + re.findall(r"newTag: (\S+)", text)
    assert set(tagged) == {version}
    chart = yaml.safe_load((DEPLOY / "helm/session-notes/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    example = yaml.safe_load((DEPLOY / "helm/example/Chart.yaml").read_text())
    assert [dependency["version"] for dependency in example["dependencies"]] == [version]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on PATH")
def test_systemd_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has no findings, and `security` reports a low exposure."""
    root = tmp_path / "root"
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(DEPLOY / "systemd/session-notes.service", units)
    (units / "session-notes.service.d").mkdir()
    shutil.copy(DEPLOY / "systemd/redis.conf", units / "session-notes.service.d")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units / "session-notes.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    # systemd-analyze reports that the program is not installed.
    complaints = [line for line in done.stderr.splitlines() if "/opt/session-notes/bin/session-notes" not in line]
    assert [line for line in complaints if "session-notes" in line] == []
    score = run("systemd-analyze", "security", "--offline=true", "--json=short", units / "session-notes.service")
    exposed = sum(float(row["exposure"] or 0) for row in json.loads(score) if row["exposure"])
    assert exposed < 2.5
