"""Scans of all sessions for the listings of both services, continued from page to page."""

from __future__ import annotations

from typing import Any

from session_notes_server.contract import is_id
from session_notes_server.rpc import paging
from session_notes_server.rpc.authorization import may_list
from session_notes_server.store import SCAN_START, ScanPosition, Store

PAGE_SIZE, MAX_PAGE_SIZE = 100, 1000


class SessionScan:
    """A scan of all sessions, as it is between two pages.

    Attributes:
        pending: Ids that the scan has found, that the caller may see, and that no page has handled.
        position: Where the scan continues. None: it is complete.
    """

    def __init__(self, pending: list[str] | None = None, position: ScanPosition | None = SCAN_START) -> None:
        self.pending = list(filter(may_list, pending or ()))
        self.position = position

    async def step(self, store: Store, *, keys: int, limit: int) -> None:
        """Take one step of about `keys` keys, unless `limit` ids are already pending or the scan is complete."""
        if len(self.pending) < limit and self.position is not None:
            ids, self.position = await store.scan_sessions(self.position, keys)
            # Keys of other programs may look like those of sessions. Tokens and pages must contain valid ids only.
            self.pending += (session_id for session_id in ids if is_id(session_id) and may_list(session_id))

    def next_page_token(self, scope: tuple[str, ...], *more: Any) -> str:
        """Return the token of the next page, with `more` that it needs, or "" if this page is the last."""
        return paging.token(scope, (self.pending, self.position, *more)) if self.pending or self.position else ""
