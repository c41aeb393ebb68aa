"""The contract's services are listed once. Every other table of services, methods or fields agrees with that list."""

import importlib
import pkgutil

import session_notes.v1
from session_notes_server.contract import FILES, SERVICES
from session_notes_server.rpc.raw_messages import BYTES_FIELDS
from session_notes_server.telemetry.metrics import cells, families
from session_notes_server.telemetry.metrics.notes import NotesMetrics

METHODS = {method.full_name for service in SERVICES for method in service.methods}


def test_every_service_of_the_contract_is_listed() -> None:
    """A service in any module of `session_notes.v1` is in the list."""
    names = set()
    for module in pkgutil.iter_modules(session_notes.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"session_notes.v1.{module.name}").DESCRIPTOR
            names |= {service.full_name for service in file.services_by_name.values()}
    assert names == {service.full_name for service in SERVICES}


def test_metrics_name_methods_of_the_contract() -> None:
    """Every method has metrics, and the metrics from responses belong to existing methods."""
    assert {f"{service}.{name}" for _, service, name in families.METHODS} >= METHODS
    assert NotesMetrics(cells.private()).by_method.keys() <= METHODS


def test_raw_fields_exist() -> None:
    """Each field in BYTES_FIELDS exists, and is a message in the contract."""
    pool = FILES[0].pool
    for message, field in BYTES_FIELDS.items():
        descriptor = pool.FindMessageTypeByName(f"session_notes.v1.{message}").fields_by_name[field]
        assert descriptor.message_type is not None
