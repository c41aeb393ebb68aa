"""Engines: which one serves is visible, and the sidecar starts without the package of the native one."""

import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes_server.settings import EngineName

from tests.refused_starts import assert_refused, run_serve
from tests.scraping import METRICS, scrape
from tests.support import SessionCalls, Sidecar, eventually, new_channel

ALONE_AND_WORKERS = pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="alone"),
        pytest.param(
            ["--workers", "2"],
            id="workers",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux has workers"),
        ),
    ],
)

# Imported by Python at its start.
WITHOUT_NGH2 = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "ngh2":
            raise ModuleNotFoundError("No module named 'ngh2'", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(params=["missing", "broken"])
def without_ngh2(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment in which the package ngh2 is missing, or cannot be imported."""
    if request.param == "missing":
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_NGH2)
    else:
        (tmp_path / "ngh2.py").write_text("raise ImportError('wrong ELF class')")
    return {"PYTHONPATH": str(tmp_path)}


def engine_lines(sidecar: Sidecar) -> list[str]:
    """Return the lines of a sidecar's log about its engine, without the date and the time."""
    return [line.split(maxsplit=2)[2] for line in sidecar.log.splitlines() if "engine" in line]


def engine_in(metadata: Any) -> object:
    """Return the engine that the trailing metadata of health's Check names."""
    return dict(metadata)["session-notes-engine"]


def engine_of_health(sidecar: Sidecar) -> object:
    """Return the engine that health's Check names."""
    with new_channel(sidecar.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        _, call = stub.Check.with_call(health_pb2.HealthCheckRequest(), timeout=10)
    return engine_in(call.trailing_metadata())


@ALONE_AND_WORKERS
def test_the_engine_is_visible(engine: EngineName, flags: list[str]) -> None:
    """The first line of the log besides the metrics' address, health's Check and a metric name the engine."""
    with Sidecar(flags=[*METRICS, *flags]) as sidecar:
        eventually(lambda: "listening on" in sidecar.log)  # Every worker serves.
        assert engine_lines(sidecar) == [f"INFO    engine: {engine}"]
        assert "engine: " in sidecar.log.splitlines()[1]
        assert engine_of_health(sidecar) == engine
        now = scrape(sidecar)
        assert now.series("session_notes_engine_info", "engine") == {(engine,): 1}
        assert now("session_notes_engine_info") == 1


def test_an_unknown_service_is_answered_with_the_engine(engine: EngineName, sidecar: Sidecar) -> None:
    """Health's Check names the engine for a service that does not exist, too."""
    with new_channel(sidecar.target) as channel, pytest.raises(grpc.RpcError) as error:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert engine_in(error.value.trailing_metadata()) == engine


@ALONE_AND_WORKERS
def test_auto_is_native(flags: list[str]) -> None:
    """By default, the native engine serves, because its package is installed."""
    with Sidecar(env={"SESSION_NOTES_ENGINE": ""}, flags=flags) as sidecar:
        assert engine_lines(sidecar) == ["INFO    engine: native"]
        assert engine_of_health(sidecar) == "native"


@ALONE_AND_WORKERS
def test_a_start_without_the_package(without_ngh2: dict[str, str], flags: list[str], session_id: str) -> None:
    """Without its package, `auto` serves on grpcio, and one warning says what to install."""
    with (
        Sidecar(env={**without_ngh2, "SESSION_NOTES_ENGINE": "auto"}, flags=flags) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert SessionCalls(channel, session_id).append_turns(1) == 1
        assert engine_of_health(sidecar) == "grpcio"
        (line,) = engine_lines(sidecar)
        assert line.startswith("WARNING engine: grpcio, because the package ngh2 ")
        assert "pip install '.[server]'" in line


def test_no_warning_if_grpcio_is_chosen(without_ngh2: dict[str, str]) -> None:
    """With `--engine grpcio`, the missing package is not mentioned."""
    with Sidecar(env={**without_ngh2, "SESSION_NOTES_ENGINE": "grpcio"}) as sidecar:
        assert engine_lines(sidecar) == ["INFO    engine: grpcio"]


@ALONE_AND_WORKERS
def test_native_without_the_package_is_refused(without_ngh2: dict[str, str], flags: list[str], tmp_path: Path) -> None:
    """Without its package, `--engine native` exits with 2 before a store is started, and says what to install."""
    data = tmp_path / "data"
    status, output = run_serve("--engine", "native", "--data-dir", str(data), *flags, env=without_ngh2)
    assert status == 2
    assert output.startswith("error: --engine native needs the package ngh2 ")
    assert "pip install '.[server]'" in output
    assert "Traceback" not in output
    assert not data.exists()


def test_an_unknown_engine_is_refused() -> None:
    """The error about an unknown engine lists the known ones."""
    assert_refused("'auto', 'native', 'grpcio'", ["--engine", "go"], code=2)
