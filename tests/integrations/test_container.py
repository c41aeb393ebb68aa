"""The image as Docker, Kubernetes, the chart and systemd run it: read-only, as its user, with its probes."""

import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.access.callers import TOKENS, Authority, get_notes_code, write_secret
from tests.integrations.charts import CHART, SECURE, needs_helm, render
from tests.integrations.container import ROOT, Container, Image, Volume, images
from tests.service_manager import Manager
from tests.stores import StoreServer, valkey_program
from tests.support import eventually, new_channel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")

Manifest = dict[str, Any]


@pytest.fixture
def host() -> Iterator[Path]:
    """The folder for a container's volumes, with a short path for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="session-notes-"))
    yield folder
    shutil.rmtree(folder)


def volume(host: Path, inside: str, mode: int, owner: int = 0) -> Volume:
    """Return a volume. If it does not exist, make it with this mode and owner."""
    path = host / inside.strip("/").replace("/", "-")
    if not path.exists():
        path.mkdir()
        os.chown(path, owner, owner)
        path.chmod(mode)
    return Volume(path, inside)


def passes(container: Container, probe: list[str]) -> bool:
    """Return whether a probe succeeds in a container, which must be running."""
    assert container.process.poll() is None, container.log
    return container.exec(*probe).returncode == 0


def write_and_read(container: Container, session: str) -> None:
    """Write notes and read them back with the command line in the container."""
    done = container.exec("session-notes", "notes", "write", session, "--summary", "a refund")
    assert done.returncode == 0, done.stderr
    done = container.exec("session-notes", "notes", "get", session, "--json")
    assert '"a refund"' in done.stdout, done.stderr


def test_docker(installed: Path, host: Path) -> None:
    """As with `docker run --read-only` and two volumes, the image serves, keeps data, and exits with 0 on a stop."""
    image = images()["sidecar"]
    uid = int(image.user.partition(":")[0])
    assert uid > 0, "the image runs as root"
    volumes = [volume(host, path, 0o700, uid) for path in ("/run/session-notes", "/var/lib/session-notes")]
    for attempt in ("first", "second"):
        with Container(image, installed, volumes) as container:
            eventually(lambda container=container: passes(container, image.healthcheck), 30, every=0.2)  # type: ignore[misc]
            status = Path(f"/proc/{container.pid}/status").read_text()
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
            assert "CapBnd:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            assert status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1", (
                "not the first process of the container"
            )
            if attempt == "first":
                write_and_read(container, "s1")
            else:
                assert '"a refund"' in container.exec("session-notes", "notes", "get", "s1", "--json").stdout
            attempt_to_write = container.exec("python", "-c", "open('/opt/session-notes/x', 'w')")
            assert "Read-only file system" in attempt_to_write.stderr
            assert container.stop(signal.Signals[image.stop_signal]) == 0, container.log
            assert "stopped" in container.log
            assert "Traceback" not in container.log


def pod(name: str) -> Manifest:
    """Return the pod of a Deployment in a manifest."""
    manifest = yaml.safe_load((ROOT / "deploy/kubernetes" / name).read_text())
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def pod_container(container: Manifest, image: Image, installed: Path, host: Path, *others: Volume) -> Container:
    """Return a container as its pod's manifest defines it; emptyDirs are world-writable, as in Kubernetes."""
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    volumes = []
    for mount in container["volumeMounts"]:
        shared = volume(host, mount["mountPath"], 0o2777)
        volumes.append(Volume(shared.host, shared.inside, not mount.get("readOnly", False)))
    return Container(
        image,
        installed,
        [*volumes, *others],
        container.get("args", []),
        {variable["name"]: variable["value"] for variable in container.get("env", [])},
        f"{context['runAsUser']}:{context['runAsGroup']}",
    )


def test_pod(installed: Path, host: Path) -> None:
    """The sidecar's probes pass, and a primary and an observer in other containers use it through its socket."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    application = {container["name"]: container for container in pod("base/conversation.yaml")["containers"]}
    examples = Volume(ROOT / "examples", "/examples", writable=False)
    stages = images()
    with pod_container(sidecar, stages["sidecar"], installed, host) as running:
        eventually(lambda: passes(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        for probe in (sidecar["livenessProbe"], ready["readinessProbe"]):
            command = probe["exec"]["command"]
            eventually(lambda command=command: passes(running, command), every=0.2)  # type: ignore[misc]
        with pod_container(application["primary"], stages["examples"], installed, host, examples) as primary:
            assert primary.process.stdin is not None
            primary.process.stdin.write("I want my money back.\n")
            primary.process.stdin.flush()
            eventually(lambda: "primary >" in primary.log, 30)
            with pod_container(application["observer"], stages["examples"], installed, host, examples) as observer:
                eventually(lambda: "run 1 over turns 1 to 2 of chat" in observer.log, 30)
                assert observer.stop() == 0, observer.log
            primary.process.stdin.write("Hello?\n")
            primary.process.stdin.close()
            assert primary.process.wait(30) == 0
            assert '"ready": true' in primary.log
        assert running.stop() == 0, running.log
        # The kernel ends the remaining child processes with the first process.
        assert "Traceback" not in running.log


def test_pod_with_metrics(installed: Path, host: Path) -> None:
    """With the components `metrics` and `metrics/readiness`, the sidecar's port answers all probes over HTTP."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    (metrics,) = pod("metrics/metrics.yaml")["initContainers"]
    (ready,) = pod("metrics/readiness/readiness.yaml")["initContainers"]
    (port,) = metrics["ports"]

    def passes_over_http(container: Container, probe: Manifest) -> bool:
        request = probe["httpGet"]
        assert request["port"] == port["name"]
        url = f"http://127.0.0.1:{port['containerPort']}{request['path']}"
        return passes(container, ["python", "-c", f"import urllib.request; urllib.request.urlopen({url!r})"])

    with pod_container(sidecar | {"env": metrics["env"]}, images()["sidecar"], installed, host) as running:
        for probe in (metrics["startupProbe"], metrics["livenessProbe"], ready["readinessProbe"]):
            eventually(lambda probe=probe: passes_over_http(running, probe), 30, every=0.2)  # type: ignore[misc]
        assert running.stop() == 0, running.log


def test_probes_during_a_store_outage(installed: Path, host: Path) -> None:
    """While the store is down, the pod is started and alive but not ready. It is ready once the store is up."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    readiness = ready["readinessProbe"]["exec"]["command"]
    socket = host / "valkey"
    socket.mkdir()
    socket.chmod(0o777)
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_REDIS_URL", "value": "unix:///run/valkey/s"}]}
    with pod_container(sidecar, images()["sidecar"], installed, host, Volume(socket, "/run/valkey")) as running:
        eventually(lambda: passes(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        assert passes(running, sidecar["livenessProbe"]["exec"]["command"])
        assert not passes(running, readiness)
        with StoreServer(valkey_program(), ["--unixsocket", str(socket / "s"), "--unixsocketperm", "777"]):
            eventually(lambda: passes(running, readiness), every=0.2)
        eventually(lambda: not passes(running, readiness), every=0.2)
        assert passes(running, sidecar["livenessProbe"]["exec"]["command"])
        assert running.stop() == 0, running.log


def test_kubernetes_secrets(installed: Path, host: Path) -> None:
    """Tokens are read from a Secret's files, which belong to root and the pod's group and are behind symbolic links."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    gid = pod("overlays/example/redis.yaml")["securityContext"]["fsGroup"]
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_TOKENS_DIR", "value": "/run/secrets/tokens"}]}
    mounted = secret(host, "/run/secrets/tokens", gid, **TOKENS)
    with pod_container(sidecar, images()["sidecar"], installed, host, mounted) as running:
        eventually(lambda: passes(running, sidecar["livenessProbe"]["exec"]["command"]), 30, every=0.2)
        assert running.exec("session-notes", "notes", "get", "s1").returncode == 7
        with_token = ("--token-file", "/run/secrets/tokens/primary")
        assert running.exec("session-notes", "notes", "get", "s1", *with_token).returncode == 3
        assert running.stop() == 0, running.log


@needs_helm
def test_chart(installed: Path, host: Path) -> None:
    """The chart's Deployment serves with TLS and tokens, and its probes use the socket."""
    manifests = yaml.safe_load_all(render(CHART, *SECURE))
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    authority = Authority(host / "authority")
    certificate = authority.issue("chart", "localhost")
    group = spec["securityContext"]["fsGroup"]
    secret(host, "/run/secrets/tokens", group, **TOKENS)
    secret(host, "/run/secrets/redis", group, password="canary-password\n")
    secret(
        host,
        "/run/secrets/tls",
        group,
        **{"tls.crt": certificate.cert.read_text(), "tls.key": certificate.key.read_text()},
    )
    ca = secret(host, "/run/secrets/ca", group, **{"ca.pem": authority.path.read_text()})
    with pod_container(container, images()["sidecar"], installed, host, ca) as running:
        eventually(lambda: passes(running, container["startupProbe"]["exec"]["command"]), 30, every=0.2)
        assert passes(running, container["livenessProbe"]["exec"]["command"])
        # No Redis of that name exists.
        assert not passes(running, container["readinessProbe"]["exec"]["command"])
        tcp = ("--target", "localhost:50051", "--tls-ca", "/run/secrets/ca/ca.pem")
        assert passes(running, ["session-notes", "health", "--service", "live", *tcp])
        without_token = running.exec("session-notes", "notes", "get", "s1", *tcp)
        assert without_token.returncode == 7, without_token.stderr
        with_token = running.exec(
            "session-notes", "notes", "get", "s1", *tcp, "--token-file", "/run/secrets/tokens/primary"
        )
        assert with_token.returncode == 4, with_token.stderr
        assert running.exec(*container["lifecycle"]["preStop"]["exec"]["command"][:1], "0").returncode == 0
        assert running.stop() == 0, running.log


def secret(host: Path, inside: str, gid: int, **files: str) -> Volume:
    """Return a Secret as Kubernetes mounts it: files of root and the pod's group behind symbolic links."""
    shared = volume(host, inside, 0o755)
    (shared.host / "..1").mkdir()
    (shared.host / "..data").symlink_to("..1")
    for name, text in files.items():
        file = shared.host / "..1" / name
        file.write_text(text)
        os.chown(file, 0, gid)
        file.chmod(0o440)
        (shared.host / name).symlink_to(f"..data/{name}")
    return Volume(shared.host, shared.inside, writable=False)


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit by name."""
    text = (ROOT / "deploy/systemd/session-notes.service").read_text().replace("\\\n", " ")
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_systemd(installed: Path, host: Path) -> None:
    """The unit's command, with systemd's directories and credentials, sends READY and serves."""
    settings, uid = unit(), 65533
    (command,) = settings["ExecStart"]
    credentials = volume(host, "/run/credentials", 0o700, uid)
    for line in settings["LoadCredential"]:
        name = line.partition(":")[0]
        write_secret(credentials.host / name, TOKENS[name])
        os.chown(credentials.host / name, uid, uid)
        (credentials.host / name).chmod(0o400)
    specifiers = {"%t": "/run", "%S": "/var/lib", "%d": "/run/credentials"}
    for specifier, path in specifiers.items():
        command = command.replace(specifier, path)
    volumes = [
        Volume(credentials.host, credentials.inside, writable=False),
        volume(host, "/run/session-notes", int(settings["RuntimeDirectoryMode"][0], 8), uid),
        volume(host, "/var/lib/session-notes", int(settings["StateDirectoryMode"][0], 8), uid),
        volume(host, "/run/systemd", 0o700, uid),
    ]
    notify = Path("/run/systemd/notify")
    image = Image(entrypoint=shlex.split(command), env={"NOTIFY_SOCKET": str(notify)})
    with (
        Manager(str(volumes[-1].host / notify.name)) as manager,
        Container(image, installed, volumes, user=f"{uid}:{uid}") as running,
    ):
        (volumes[-1].host / notify.name).chmod(0o666)
        target = f"unix:{host}/run-session-notes/grpc.sock"
        manager.receive_until("READY=1")
        assert "listening on 127.0.0.1:50051" in running.log
        with new_channel(target) as channel:
            assert get_notes_code(channel, TOKENS["observer"]) is grpc.StatusCode.OK
            assert get_notes_code(channel) is grpc.StatusCode.UNAUTHENTICATED
        assert running.stop() == 0, running.log
