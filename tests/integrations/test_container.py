"""The image as Docker, Kubernetes, the chart and systemd run it: read-only, as its user, with its probes."""

import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.access.callers import TOKENS, Authority, get_notes_code, write_secret
from tests.integrations.base_image import ROOT, TAG, missing
from tests.integrations.charts import CHART, SECURE, needs_helm, render
from tests.integrations.container import Container
from tests.integrations.images import SEARCH_PATH, TARGETS, Image, Volume, stages
from tests.service_manager import Manager
from tests.stores import StoreServer, valkey_program
from tests.support import eventually, new_channel

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux"),
    # The first test builds the images.
    pytest.mark.timeout(600),
]

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


@pytest.mark.skipif(missing() != "", reason=missing())
@pytest.mark.parametrize("target", TARGETS)
def test_build(target: str, images: dict[str, Image]) -> None:
    """buildah builds the target, with the Dockerfile's configuration, a complete environment, and no pip in it."""
    image = images[target]
    assert replace(image, root=None) == stages()[target].image
    assert image.root is not None
    environment = image.root / "opt/session-notes"
    packages = environment / f"lib/python{TAG.rpartition('.')[0]}/site-packages"
    modules = list(packages.rglob("session_notes_server/**/*.py"))
    assert modules
    for module in modules:
        assert list(module.parent.glob(f"__pycache__/{module.stem}.*.pyc")), f"{module} is compiled at every start"
    assert not [*environment.glob("bin/pip*"), *packages.glob("pip")]
    uid = int(image.user.partition(":")[0])
    owned = {path for path in image.root.rglob("*") if path.lstat().st_uid == uid}
    assert owned == {image.root / "run/session-notes", image.root / "var/lib/session-notes"}
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in owned)


# Prints the directories that the user may write to.
_WRITABLE = "import os; print(*(d for d, _, _ in os.walk('/') if os.access(d, os.W_OK) and not d.startswith('/proc/')))"


def test_docker(images: dict[str, Image], host: Path) -> None:
    """As with `docker run --read-only` and two volumes, the image serves, keeps data, and exits with 0 on a stop."""
    image = images["sidecar"]
    uid = int(image.user.partition(":")[0])
    assert uid > 0, "the image runs as root"
    volumes = [volume(host, path, 0o700, uid) for path in ("/run/session-notes", "/var/lib/session-notes")]
    for attempt in ("first", "second"):
        with Container(image, volumes) as container:
            eventually(lambda container=container: passes(container, image.healthcheck), 30, every=0.2)  # type: ignore[misc]
            status = Path(f"/proc/{container.pid}/status").read_text()
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
            assert "CapBnd:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            assert status.split("NSpid:")[1].splitlines()[0].split()[-1] == "1", (
                "not the first process of the container"
            )
            version = image.labels["org.opencontainers.image.version"]
            assert version in container.exec("session-notes", "--version").stdout
            if attempt == "first":
                write_and_read(container, "s1")
            else:
                assert '"a refund"' in container.exec("session-notes", "notes", "get", "s1", "--json").stdout
            writable = container.exec("python", "-c", _WRITABLE).stdout.split()
            mounted = tuple(volume.inside for volume in volumes)
            assert set(mounted) <= set(writable)
            assert [path for path in writable if not path.startswith(mounted)] == []
            assert container.stop(signal.Signals[image.stop_signal]) == 0, container.log
            assert "stopped" in container.log
            assert "Traceback" not in container.log


def compose_service(
    name: str, image: Image, host: Path, *others: Volume, network: Container | None = None
) -> Container:
    """Return a container of a service of the compose file, with its command, environment and named volumes."""
    file = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
    service = file["services"][name]
    volumes = []
    for mount in service["volumes"]:
        source, _, inside = mount.partition(":")
        # A new volume has the owner of the image's directory, unless its options state another.
        default = f"uid={image.user.partition(':')[0]},mode=0700"
        text = file["volumes"][source].get("driver_opts", {"o": default})["o"]
        options = dict(option.split("=") for option in text.split(","))
        volumes.append(volume(host, inside, int(options["mode"], 8), int(options["uid"])))
    command = service.get("command", [])
    arguments = shlex.split(command) if isinstance(command, str) else command
    return Container(image, [*volumes, *others], arguments, service.get("environment"), network=network)


def test_compose(images: dict[str, Image], host: Path) -> None:
    """Valkey, the sidecar and the two examples run together until the primary has received notes and exits."""
    program = Volume(Path(valkey_program()).parent, "/opt/valkey/bin", writable=False)
    # As in Valkey's image, the working directory is the volume.
    valkey_image = Image({"PATH": f"{program.inside}:{SEARCH_PATH}"}, "999:1000", ["env", "--chdir=/data"])
    (host / "hosts").write_text("127.0.0.1 localhost valkey\n")
    hosts = Volume(host / "hosts", "/etc/hosts", writable=False)
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"]
    interval = float(compose["sidecar"]["healthcheck"]["interval"].removesuffix("s"))
    with (
        compose_service("valkey", valkey_image, host, program) as valkey,
        compose_service("sidecar", images["sidecar"], host, hosts, network=valkey) as sidecar,
    ):
        # The other services start once the sidecar is healthy.
        eventually(lambda: passes(sidecar, images["sidecar"].healthcheck), 30, every=interval)
        eventually(lambda: passes(sidecar, ["session-notes", "health", "--service", "ready"]), 30, every=0.2)
        with (
            compose_service("observer", images["examples"], host) as observer,
            compose_service("primary", images["examples"], host) as primary,
        ):
            assert primary.process.wait(90) == 0, primary.log
            assert '"ready": true' in primary.log
            assert observer.stop() == 0, observer.log
            assert "of talk" in observer.log
        done = sidecar.exec("session-notes", "notes", "get", "talk", "--json")
        assert '"summary"' in done.stdout, done.stderr
        assert sidecar.stop(signal.Signals[images["sidecar"].stop_signal]) == 0, sidecar.log
        assert valkey.stop() == 0, valkey.log


def pod(name: str) -> Manifest:
    """Return the pod of a Deployment in a manifest."""
    manifest = yaml.safe_load((ROOT / "deploy/kubernetes" / name).read_text())
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def pod_container(container: Manifest, image: Image, host: Path, *others: Volume) -> Container:
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
        [*volumes, *others],
        container.get("args", []),
        {variable["name"]: variable["value"] for variable in container.get("env", [])},
        f"{context['runAsUser']}:{context['runAsGroup']}",
    )


def test_pod(images: dict[str, Image], host: Path) -> None:
    """The sidecar's probes pass, and a primary and an observer in other containers use it through its socket."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    application = {container["name"]: container for container in pod("base/conversation.yaml")["containers"]}
    with pod_container(sidecar, images["sidecar"], host) as running:
        eventually(lambda: passes(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        for probe in (sidecar["livenessProbe"], ready["readinessProbe"]):
            command = probe["exec"]["command"]
            eventually(lambda command=command: passes(running, command), every=0.2)  # type: ignore[misc]
        with pod_container(application["primary"], images["examples"], host) as primary:
            assert primary.process.stdin is not None
            primary.process.stdin.write("I want my money back.\n")
            primary.process.stdin.flush()
            eventually(lambda: "primary >" in primary.log, 30)
            with pod_container(application["observer"], images["examples"], host) as observer:
                eventually(lambda: "run 1 over turns 1 to 2 of chat" in observer.log, 30)
                assert observer.stop() == 0, observer.log
            primary.process.stdin.write("Hello?\n")
            primary.process.stdin.close()
            assert primary.process.wait(30) == 0
            assert '"ready": true' in primary.log
        assert running.stop() == 0, running.log
        # The kernel ends the remaining child processes with the first process.
        assert "Traceback" not in running.log


def test_pod_with_metrics(images: dict[str, Image], host: Path) -> None:
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

    with pod_container(sidecar | {"env": metrics["env"]}, images["sidecar"], host) as running:
        for probe in (metrics["startupProbe"], metrics["livenessProbe"], ready["readinessProbe"]):
            eventually(lambda probe=probe: passes_over_http(running, probe), 30, every=0.2)  # type: ignore[misc]
        assert running.stop() == 0, running.log


def test_probes_during_a_store_outage(images: dict[str, Image], host: Path) -> None:
    """While the store is down, the pod is started and alive but not ready. It is ready once the store is up."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    (ready,) = pod("readiness/readiness.yaml")["initContainers"]
    readiness = ready["readinessProbe"]["exec"]["command"]
    socket = host / "valkey"
    socket.mkdir()
    socket.chmod(0o777)
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_REDIS_URL", "value": "unix:///run/valkey/s"}]}
    with pod_container(sidecar, images["sidecar"], host, Volume(socket, "/run/valkey")) as running:
        eventually(lambda: passes(running, sidecar["startupProbe"]["exec"]["command"]), 30, every=0.2)
        assert passes(running, sidecar["livenessProbe"]["exec"]["command"])
        assert not passes(running, readiness)
        with StoreServer(valkey_program(), ["--unixsocket", str(socket / "s"), "--unixsocketperm", "777"]):
            eventually(lambda: passes(running, readiness), every=0.2)
        eventually(lambda: not passes(running, readiness), every=0.2)
        assert passes(running, sidecar["livenessProbe"]["exec"]["command"])
        assert running.stop() == 0, running.log


def test_kubernetes_secrets(images: dict[str, Image], host: Path) -> None:
    """Tokens are read from a Secret's files, which belong to root and the pod's group and are behind symbolic links."""
    (sidecar,) = pod("sidecar/sidecar.yaml")["initContainers"]
    gid = pod("overlays/example/redis.yaml")["securityContext"]["fsGroup"]
    sidecar = sidecar | {"env": [{"name": "SESSION_NOTES_TOKENS_DIR", "value": "/run/secrets/tokens"}]}
    mounted = secret(host, "/run/secrets/tokens", gid, **TOKENS)
    with pod_container(sidecar, images["sidecar"], host, mounted) as running:
        eventually(lambda: passes(running, sidecar["livenessProbe"]["exec"]["command"]), 30, every=0.2)
        assert running.exec("session-notes", "notes", "get", "s1").returncode == 7
        with_token = ("--token-file", "/run/secrets/tokens/primary")
        assert running.exec("session-notes", "notes", "get", "s1", *with_token).returncode == 3
        assert running.stop() == 0, running.log


@needs_helm
def test_chart(images: dict[str, Image], host: Path) -> None:
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
    with pod_container(container, images["sidecar"], host, ca) as running:
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


def test_systemd(images: dict[str, Image], host: Path) -> None:
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
    image = replace(images["sidecar"], entrypoint=shlex.split(command), command=[], env={"NOTIFY_SOCKET": str(notify)})
    with (
        Manager(str(volumes[-1].host / notify.name)) as manager,
        Container(image, volumes, user=f"{uid}:{uid}") as running,
    ):
        (volumes[-1].host / notify.name).chmod(0o666)
        target = f"unix:{host}/run-session-notes/grpc.sock"
        manager.receive_until("READY=1")
        assert "listening on 127.0.0.1:50051" in running.log
        with new_channel(target) as channel:
            assert get_notes_code(channel, TOKENS["observer"]) is grpc.StatusCode.OK
            assert get_notes_code(channel) is grpc.StatusCode.UNAUTHENTICATED
        assert running.stop() == 0, running.log
