"""The Claude Agent SDK's conformance suite for session stores, on an observed store with a real recorder.

`make test-integrations` runs it, since only its environment has the SDK.
"""

from typing import Any

import pytest
from session_notes import PrimaryClient, TurnRecorder

from tests.support import Sidecar, free_port

sdk: Any = pytest.importorskip("claude_agent_sdk")
suite: Any = pytest.importorskip("claude_agent_sdk.testing")
integration: Any = pytest.importorskip("session_notes.integrations.claude_agent_sdk")

OPTIONAL = ("list_sessions", "list_session_summaries", "delete", "list_subkeys")


@pytest.mark.parametrize("outage", [False, True], ids=["sidecar", "outage"])
async def test_an_observed_store_conforms(sidecar: Sidecar, outage: bool) -> None:
    """The suite passes with every optional method of the wrapped store, and also during an outage."""
    with PrimaryClient(f"127.0.0.1:{free_port()}" if outage else sidecar.target) as primary:
        recorder = TurnRecorder(primary)
        stores = []

        def make() -> Any:
            stores.append(integration.ObservedStore(sdk.InMemorySessionStore(), recorder))
            return stores[-1]

        await suite.run_session_store_conformance(make)
        assert all(hasattr(stores[0], method) for method in OPTIONAL)
        recorder.close()


async def test_a_minimal_store_stays_minimal(sidecar: Sidecar) -> None:
    """The SDK sees which optional methods the wrapped store does not implement, whether inherited or absent."""
    inner = sdk.InMemorySessionStore()
    required = {"append": inner.append, "load": inner.load}
    minimal = [type("Minimal", bases, required)() for bases in ((sdk.SessionStore,), ())]
    with PrimaryClient(sidecar.target) as primary, TurnRecorder(primary) as recorder:
        for store in minimal:
            observed = integration.ObservedStore(store, recorder)
            assert not any(hasattr(observed, method) for method in OPTIONAL)
