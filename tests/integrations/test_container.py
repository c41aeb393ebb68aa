"""The image's own command, run as its user on a read-only root; in a pod as the manifests have it, probes included."""

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
from tests.integrations.container import ROOT, Container, Image, Volume, images
from tests.integrations.test_deployment import SECURE, needs_helm, template
from tests.service_manager import Manager
from tests.stores import StoreServer, valkey_program
from tests.support import eventually, new_channel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux's")

Manifest = dict[str, Any]


@pytest.fixture
def host() -> Iterator[Path]:
    """A folder for what a container shares with the host; sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="session-notes-"))
    yield folder
    shutil.rmtree(folder)


def volume(host: Path, inside: str, mode: int, owner: int = 0) -> Volume:
    """A new volume with this mode and owner."""
    place = host / inside.strip("/").replace("/", "-")
    if not place.exists():
        place.mkdir()
        os.chown(place, owner, owner)
        place.chmod(mode)
    return Volume(place, inside)


def serves(container: Container, health: list[str]) -> bool:
    """Whether a health command of it says so. It has to be running for that."""
    assert container.process.poll() is None, container.log
    return container.exec(*health).returncode == 0


def write_and_read(container: Container, session: str) -> None:
    """Notes go in and come out, by the command line in the container."""
    written = container.exec("session-notes", "notes", "write", session, "--summary", "a refund")
    assert written.returncode == 0, written.stderr
    read = container.exec("session-notes", "notes", "get", session, "--json")
    assert '"a refund"' in read.stdout, read.stderr


def test_as_docker_runs_it(installed: Path, host: Path) -> None:
    """`docker run --read-only` with two named volumes: it serves, keeps data, and ends with 0 at the stop signal."""
    image = images()["sidecar"]
    uid = int(image.user.partition(":")[0])
    assert uid > 0, "root"
    volumes = [volume(host, path, 0o700, uid) for path in ("/run/session-notes", "/var/lib/session-notes")]
    for attempt in ("first", "again"):
        with Container(image, installed, volumes) as container:
            eventually(lambda container=container: serves(container, image.healthcheck), 30, every=0.2)  # type: ignore[misc]
            status = Path(f"/proc/{container.pid}/status").read_text()
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
            assert "CapBnd:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            assert status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1", "it is not the first process"
            if attempt == "first":
                write_and_read(container, "s1")
            else:
                assert '"a refund"' in container.exec("session-notes", "notes", "get", "s1", "--json").stdout
            nowhere = container.exec("python", "-c", "open('/opt/session-notes/x', 'w')")
            assert "Read-only file system" in nowhere.stderr
            assert container.stop(signal.Signals[image.stop_signal]) == 0, container.log
            assert "stopped" in container.log
            assert "Traceback" not in container.log


def pod(name: str) -> Manifest:
    """The pod of a Deployment in a manifest."""
    manifest = yaml.safe_load((ROOT / "deploy/kubernetes" / name).read_text())
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def of_pod(container: Manifest, image: Image, installed: Path, host: Path, *more: Volume) -> Container:
    """A container of a pod as its manifest has it; emptyDirs are everybody's to write to, as Kubernetes makes them."""
    context = container["securityContext"]
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    volumes = []
    for mount in container["volumeMounts"]:
        made = volume(host, mount["mountPath"], 0o2777)
        volumes.append(Volume(made.host, made.inside, not mount.get("readOnly", False)))
    return Container(
        image,
        installed,
        [*volumes, *more],
        container.get("args", []),
        {variable["name"]: variable["value"] for variable in container.get("env", [])},
        f"{context['runAsUser']}:{context['runAsGroup']}",
    )


def test_as_a_pod_runs_it(installed: Path, host: Path) -> None:
    """The sidecar starts, its probes pass; a primary and an observer, in other containers, meet through its socket."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    application = {container["name"]: container for container in pod("base/conversation.yaml")["containers"]}
    examples = Volume(ROOT / "examples", "/examples", writable=False)
    stages = images()
    with of_pod(sidecar, stages["sidecar"], installed, host) as running:
        eventually(lambda: serves(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        for probe in (sidecar["livenessProbe"], ready["readinessProbe"]):
            command = probe["exec"]["command"]
            eventually(lambda command=command: serves(running, command), every=0.2)  # type: ignore[misc]
        with of_pod(application["primary"], stages["examples"], installed, host, examples) as primary:
            assert primary.process.stdin is not None
            primary.process.stdin.write("I want my money back.\n")
            primary.process.stdin.flush()
            eventually(lambda: "primary >" in primary.log, 30)
            with of_pod(application["observer"], stages["examples"], installed, host, examples) as observer:
                eventually(lambda: "run 1 over 2 turns of chat" in observer.log, 30)
                assert observer.stop() == 0, observer.log
            primary.process.stdin.write("Hello?\n")
            primary.process.stdin.close()
            assert primary.process.wait(30) == 0
            assert '"ready": true' in primary.log
        assert running.stop() == 0, running.log
        # The kernel ended what it had started.
        assert "Traceback" not in running.log


def test_probes_tell_the_process_from_its_store(installed: Path, host: Path) -> None:
    """While the store is down, the pod is alive, is started, and is not ready; ready again when it is back."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    readiness = ready["readinessProbe"]["exec"]["command"]
    socket = host / "valkey"
    socket.mkdir()
    socket.chmod(0o777)
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_REDIS_URL", "value": "unix:///run/valkey/s"}]}
    with of_pod(sidecar, images()["sidecar"], installed, host, Volume(socket, "/run/valkey")) as running:
        eventually(lambda: serves(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        assert serves(running, sidecar["livenessProbe"]["exec"]["command"])
        assert not serves(running, readiness)
        with StoreServer(valkey_program(), ["--unixsocket", str(socket / "s"), "--unixsocketperm", "777"]):
            eventually(lambda: serves(running, readiness), every=0.2)
        eventually(lambda: not serves(running, readiness), every=0.2)
        assert serves(running, sidecar["livenessProbe"]["exec"]["command"])
        assert running.stop() == 0, running.log


def test_secrets_as_kubernetes_mounts_them(installed: Path, host: Path) -> None:
    """Files of a Secret are root's, for the pod's group, behind links: tokens in them let callers in."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    gid = pod("overlays/example/redis.yaml")["securityContext"]["fsGroup"]
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_TOKENS_DIR", "value": "/run/secrets/tokens"}]}
    mounted = secret(host, "/run/secrets/tokens", gid, **TOKENS)
    with of_pod(sidecar, images()["sidecar"], installed, host, mounted) as running:
        eventually(lambda: serves(running, sidecar["livenessProbe"]["exec"]["command"]), 30, every=0.2)
        assert running.exec("session-notes", "notes", "get", "s1").returncode == 7
        with_token = ("--token-file", "/run/secrets/tokens/primary")
        assert running.exec("session-notes", "notes", "get", "s1", *with_token).returncode == 3
        assert running.stop() == 0, running.log


@needs_helm
def test_as_the_chart_runs_it(installed: Path, host: Path) -> None:
    """The chart's own Deployment: TLS and tokens on the network, probes over the socket, ready as its store is."""
    manifests = yaml.safe_load_all(template(ROOT / "deploy/helm/session-notes", *SECURE))
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    authority = Authority(host / "authority")
    mine = authority.issue("chart", "localhost")
    group = spec["securityContext"]["fsGroup"]
    secret(host, "/run/secrets/tokens", group, **TOKENS)
    secret(host, "/run/secrets/redis", group, password="canary-password\n")
    secret(host, "/run/secrets/tls", group, **{"tls.crt": mine.cert.read_text(), "tls.key": mine.key.read_text()})
    ca = secret(host, "/run/secrets/ca", group, **{"ca.pem": authority.path.read_text()})
    with of_pod(container, images()["sidecar"], installed, host, ca) as running:
        eventually(lambda: serves(running, container["startupProbe"]["exec"]["command"]), 30, every=0.2)
        assert serves(running, container["livenessProbe"]["exec"]["command"])
        # There is no Redis of that name.
        assert not serves(running, container["readinessProbe"]["exec"]["command"])
        tcp = ("--target", "localhost:50051", "--tls-ca", "/run/secrets/ca/ca.pem")
        assert serves(running, ["session-notes", "health", "--service", "live", *tcp])
        refused = running.exec("session-notes", "notes", "get", "s1", *tcp)
        assert refused.returncode == 7, refused.stderr
        known = running.exec("session-notes", "notes", "get", "s1", *tcp, "--token-file", "/run/secrets/tokens/primary")
        assert known.returncode == 4, known.stderr
        assert running.exec(*container["lifecycle"]["preStop"]["exec"]["command"][:1], "0").returncode == 0
        assert running.stop() == 0, running.log


def secret(host: Path, inside: str, gid: int, **files: str) -> Volume:
    """A Secret as Kubernetes mounts it: root's, for the pod's group, each file a link to where it can be changed."""
    made = volume(host, inside, 0o755)
    (made.host / "..1").mkdir()
    (made.host / "..data").symlink_to("..1")
    for name, text in files.items():
        file = made.host / "..1" / name
        file.write_text(text)
        os.chown(file, 0, gid)
        file.chmod(0o440)
        (made.host / name).symlink_to(f"..data/{name}")
    return Volume(made.host, made.inside, writable=False)


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit, by name."""
    text = (ROOT / "deploy/systemd/session-notes.service").read_text().replace("\\\n", " ")
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_as_systemd_runs_it(installed: Path, host: Path) -> None:
    """The unit's command, with the directories and credentials that systemd makes for it, tells READY and serves."""
    settings, uid = unit(), 65533
    (command,) = settings["ExecStart"]
    credentials = volume(host, "/run/credentials", 0o700, uid)
    for line in settings["LoadCredential"]:
        name = line.partition(":")[0]
        write_secret(credentials.host / name, TOKENS[name])
        os.chown(credentials.host / name, uid, uid)
        (credentials.host / name).chmod(0o400)
    made = {"%t": "/run", "%S": "/var/lib", "%d": "/run/credentials"}
    for specifier, path in made.items():
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
