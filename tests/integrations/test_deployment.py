"""What deploy/ has is valid, and says what it should, as far as that shows without an engine or a cluster."""

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

from tests.integrations.container import ROOT, images
from tests.stores import StoreServer, valkey_program

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.34"
BIN = Path(sys.executable).parent
HELM = shutil.which("helm")
needs_helm = pytest.mark.skipif(
    HELM is None, reason="no helm on PATH (go install helm.sh/helm/v3/cmd/helm@v3.16.4): the charts are not rendered"
)
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on PATH")


def run(*command: str | Path) -> str:
    """What a program prints; an AssertionError with its complaint where it fails."""
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def valid(manifests: str, tmp_path: Path) -> list[dict[str, Any]]:
    """Kubernetes objects, once its own schemas have passed them: strictly, so that no field is misspelt."""
    file = tmp_path / "manifests.yaml"
    file.write_text(manifests)
    run(BIN / "kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, file)
    return [manifest for manifest in yaml.safe_load_all(manifests) if manifest]


def containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All containers of a Deployment."""
    pod = manifest["spec"]["template"]["spec"]
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def assert_confined(manifest: dict[str, Any]) -> None:
    """What no container of ours may do without, by the restricted pod security standard and a little more."""
    pod = manifest["spec"]["template"]["spec"]
    for container in containers(manifest):
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"], container["name"]
        assert context["readOnlyRootFilesystem"], container["name"]
        assert context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, container["name"]


def sidecar_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The native sidecar of the only Deployment."""
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    assert_confined(deployment)
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for one in containers(deployment) for mount in one["volumeMounts"]} == volumes
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert isinstance(sidecar, dict)
    return sidecar


def test_a_misspelt_field_is_found(tmp_path: Path) -> None:
    """The validation that the others rely on refuses what Kubernetes would silently leave out."""
    manifest = (DEPLOY / "kubernetes/base/conversation.yaml").read_text()
    valid(manifest, tmp_path)
    with pytest.raises(AssertionError, match="readOnlyRootFileSystem"):
        valid(manifest.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"), tmp_path)


@needs_kubectl
def test_the_base_gives_a_pod_its_sidecar(tmp_path: Path) -> None:
    """`kubectl kustomize` of the base: both processes, and the sidecar, with probes that need no network."""
    sidecar = sidecar_of(valid(run("kubectl", "kustomize", DEPLOY / "kubernetes/base"), tmp_path))
    for probe in ("startupProbe", "livenessProbe"):
        assert sidecar[probe]["exec"]["command"] == ["session-notes", "health", "--service", "live"]
    assert "readinessProbe" not in sidecar
    assert "ports" not in sidecar


@needs_kubectl
def test_the_overlay_puts_a_redis_in(tmp_path: Path) -> None:
    """The example overlay: images of a registry, a Redis by TLS, its password in a file, and no embedded store."""
    manifests = valid(run("kubectl", "kustomize", DEPLOY / "kubernetes/overlays/example"), tmp_path)
    sidecar = sidecar_of(manifests)
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"agents"}
    assert sidecar["image"].startswith("registry.example.org/session-notes:")
    assert "SESSION_NOTES_REDIS_PASSWORD_FILE" in {variable["name"] for variable in sidecar["env"]}
    assert "session-notes-data" not in {mount["name"] for mount in sidecar["volumeMounts"]}


@needs_kubectl
def test_the_readiness_component_follows_the_store(tmp_path: Path) -> None:
    """With the component `readiness`, and nothing else, the pod is as ready as its store."""
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    (tmp_path / "kubernetes/ours").mkdir()
    ours = {"resources": ["../base"], "components": ["../readiness"]}
    (tmp_path / "kubernetes/ours/kustomization.yaml").write_text(yaml.safe_dump(ours))
    sidecar = sidecar_of(valid(run("kubectl", "kustomize", tmp_path / "kubernetes/ours"), tmp_path))
    assert sidecar["readinessProbe"]["exec"]["command"][-1] == "ready"


SECURE = ("--set", "redis.url=rediss://redis:6380,deployment.tlsSecret=tls,tokensSecret=tokens,redis.secret=redis")


def template(chart: Path, *flags: str) -> str:
    """What `helm template` makes of a chart."""
    assert HELM is not None
    return run(HELM, "template", "notes", chart, "--kube-version", KUBERNETES, *flags)


@needs_helm
def test_the_chart_makes_a_service(tmp_path: Path) -> None:
    """By itself: a Deployment with TLS and tokens, ready as its store is, and a Service that finds it."""
    chart = DEPLOY / "helm/session-notes"
    run(HELM or "", "lint", "--strict", chart, *SECURE)
    deployment, service = sorted(valid(template(chart, *SECURE), tmp_path), key=lambda manifest: str(manifest["kind"]))
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
    ("flags", "said"),
    [
        ((), "redis.url is empty"),
        (("--set", "redis.url=redis://redis"), "deployment.tlsSecret and tokensSecret"),
        (("--set", "redis.url=redis://redis,deployment.tlsSecret=tls"), "deployment.tlsSecret and tokensSecret"),
        ((*SECURE, "--set", "redis.uri=x"), "uri"),
        ((*SECURE, "--set", "settings.SESSION_TTL=12h"), "SESSION_TTL"),
    ],
)
def test_the_chart_refuses(flags: tuple[str, ...], said: str) -> None:
    """Values that would leave sessions open to everybody, or in as many stores as pods, or that are misspelt."""
    assert HELM is not None
    command = [HELM, "template", "notes", str(DEPLOY / "helm/session-notes"), "--kube-version", KUBERNETES, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert said in ended.stderr


@needs_helm
def test_a_chart_can_have_the_sidecar_in_its_own_pods(tmp_path: Path) -> None:
    """The example chart, which depends on ours: its pod is like the one of the kustomize base."""
    shutil.copytree(DEPLOY / "helm", tmp_path / "helm")
    run(HELM or "", "dependency", "build", tmp_path / "helm/example")
    sidecar = sidecar_of(valid(template(tmp_path / "helm/example"), tmp_path))
    other = yaml.safe_load((DEPLOY / "kubernetes/sidecar/sidecar.yaml").read_text())
    (same,) = other["spec"]["template"]["spec"]["initContainers"]
    for part in ("startupProbe", "livenessProbe", "resources", "securityContext", "volumeMounts"):
        assert sidecar[part] == same[part], part


def test_the_charts_schema_is_one() -> None:
    """The chart's defaults pass its schema, and the schema the one of schemas."""
    chart = DEPLOY / "helm/session-notes"
    run(BIN / "check-jsonschema", "--check-metaschema", chart / "values.schema.json")
    run(BIN / "check-jsonschema", "--schemafile", chart / "values.schema.json", chart / "values.yaml")


def test_compose_follows_its_specification() -> None:
    """The schema of the compose specification passes it, with what YAML merges put in place."""
    file = DEPLOY / "compose/compose.yaml"
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    services = yaml.safe_load(file.read_text())["services"]
    stages = images()
    for name in ("sidecar", "primary", "observer"):
        service = services[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["build"].get("target", "sidecar") in stages
        assert service["volumes"] == ["sockets:/run/session-notes"]
        assert (ROOT / service["build"]["dockerfile"]).exists()
    # What it tells Valkey, Valkey knows.
    told = services["valkey"]["command"].split()
    assert told[0] == "valkey-server"
    with StoreServer(valkey_program(), told[1:]) as store, redis.Redis.from_url(store.url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}
    uid, gid = stages["sidecar"].user.split(":")
    options = yaml.safe_load(file.read_text())["volumes"]["sockets"]["driver_opts"]["o"]
    assert f"uid={uid},gid={gid}" in options


def test_the_dockerfile_has_good_manners() -> None:
    """hadolint finds nothing; what is run is run without a shell, by a number that is not root's."""
    run(BIN / "hadolint", DEPLOY / "docker/Dockerfile")
    image = images()["sidecar"]
    assert image.entrypoint == ["session-notes"]
    assert image.command == ["serve"]
    assert image.healthcheck == ["session-notes", "health", "--service", "live"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user)
    assert image.stop_signal == "SIGTERM"
    # All but what is copied is kept out of the build.
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    copied = [*images()["build"].copied, *images()["examples"].copied]
    let_in = {f"!{source}" for *sources, _ in copied for source in sources}
    assert {line for line in ignored if line.startswith("!")} == let_in
    assert "*" in ignored


YAMLLINT = """
extends: default
rules:
  line-length: {max: 120}
  document-start: disable
"""


def test_the_yaml_is_clean() -> None:
    """yamllint finds nothing in what is plain YAML."""
    files = [file for file in DEPLOY.rglob("*.yaml") if "templates" not in file.parts]
    assert len(files) > 10
    run(
        BIN / "yamllint",
        "--strict",
        "--config-data",
        YAMLLINT,
        *files,
    )


def test_one_version_everywhere() -> None:
    """Image, charts and manifests are of the version that pyproject.toml has."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert images()["sidecar"].labels["org.opencontainers.image.version"] == version
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
    assert [one["version"] for one in example["dependencies"]] == [version]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_the_unit_is_known_to_systemd(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, and `security` little that a service could still do."""
    root = tmp_path / "root"
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(DEPLOY / "systemd/session-notes.service", units)
    (units / "session-notes.service.d").mkdir()
    shutil.copy(DEPLOY / "systemd/redis.conf", units / "session-notes.service.d")
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units / "session-notes.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    # The program is not there, of course.
    complaints = [line for line in ended.stderr.splitlines() if "/opt/session-notes/bin/session-notes" not in line]
    assert [line for line in complaints if "session-notes" in line] == []
    score = run("systemd-analyze", "security", "--offline=true", "--json=short", units / "session-notes.service")
    exposed = sum(float(row["exposure"] or 0) for row in json.loads(score) if row["exposure"])
    assert exposed < 2.5
