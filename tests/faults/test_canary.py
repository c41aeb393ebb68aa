"""Nothing leaks: what users said is in no log and no error, not when the store fails, not when there is a bug."""

import re

import grpc

from tests.faults.proxy import Proxy
from tests.stores import Store, StoreServer, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, new_channel, notes, turns

CANARY = "canary-5e0d"


def test_a_canary_is_heard_nowhere() -> None:
    """A canary in every field, a talkative log, faults of each kind and a bug: neither log nor error has it.

    The bug is injected in the store: a value of a kind that no script of ours expects. It is INTERNAL, with an id that
    the log has too.
    """
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=("--verbose", "--store-timeout", "300ms"), wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        sidecar.wait_until_serving()
        session, told = SessionCalls(channel, f"session-{CANARY}"), list[Refusal]()
        content = notes(CANARY, follow_up_suggestions=[CANARY], coverage={CANARY: 1.0})
        content.extra[CANARY] = CANARY

        def call_all() -> None:
            said = turns(1)
            said[0].text = CANARY
            run = f"run-{CANARY}-{len(told)}"
            for call in (
                lambda: session.begin_run(run, observer=CANARY),
                lambda: session.write_notes(run, content, observer=CANARY),
                lambda: session.fail_run(run, observer=CANARY, reason=CANARY),
                lambda: session.append_turns(said),
                lambda: session.update_session(set={CANARY: CANARY}),
                lambda: session.get_notes(observer=CANARY),
                lambda: session.call("SessionNotes/WriteNotes", CANARY.encode()),
            ):
                refusal = Refusal()
                try:
                    call()
                except grpc.RpcError as error:
                    refusal.read(error)
                told.append(refusal)

        call_all()
        for how in ("swallow", "reset"):
            proxy.lose_reply(CANARY.encode(), how)
            call_all()
        proxy.inject_before_reply(CANARY.encode(), b"$11\r\n" + CANARY.encode() + b"\r\n")
        call_all()
        proxy.inject_before_reply(CANARY.encode(), b"-ERR " + CANARY.encode() + b"\r\n")
        call_all()
        proxy.inject_before_reply(CANARY.encode(), b"\xff" + CANARY.encode() + b"\r\n")
        call_all()
        proxy.refuse()
        call_all()
        proxy.accept()
        sidecar.wait_until_serving()
        store = Store(server.url, sidecar.store.prefix)
        store.forget()
        store.client.set(store.key(session.id), CANARY, ex=60)
        call_all()
        assert store.holding(CANARY)
        store.close()

        codes = {refusal.code for refusal in told}
        assert {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT} <= codes
        assert grpc.StatusCode.UNKNOWN not in codes
        assert not [refusal.text for refusal in told if CANARY in refusal.text]
        assert CANARY not in sidecar.log
        for refusal in told:
            if refusal.code == grpc.StatusCode.INTERNAL:
                assert re.search(rf"error {refusal.metadata['error_id']} in session_notes", sidecar.log)
