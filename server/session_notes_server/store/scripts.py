"""The Lua scripts and their arguments: one script per operation, so that each operation is one atomic step.

Each class of arguments is the signature of a script: the fields of `GetNotes` are the arguments of `lua/get_notes.lua`.
The loader generates a Lua local of the same name for each, so no script reads ARGV by position. The comment at the top
of a script describes its reply, and `lua/common.lua` describes KEYS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Self, TypeAlias, get_args, get_origin, get_type_hints

from session_notes_server.store import limits
from session_notes_server.store.records import State
from session_notes_server.store.redis.connection import pack


class GetNotes(NamedTuple):
    """Read an observer's current notes, unless they are larger than `max_notes_bytes`."""

    observer: str
    max_notes_bytes: int | None = None


class BeginRun(NamedTuple):
    """Begin a run, unless the turns and notes to return are larger than `max_reply_bytes`."""

    session_id: str
    default_ttl_ms: int
    observer: str
    run_id: str
    observed_turn: int | None
    lease_us: int
    only_if_idle: bool
    include_transcript: bool
    after_turn: int | None
    after_current_notes: bool
    max_turns: int
    include_current_notes: bool
    max_reply_bytes: int | None


class WriteNotes(NamedTuple):
    """Write a run's notes. If this creates the session, its ttl is `former_ttl_ms`, the ttl before it expired."""

    session_id: str
    default_ttl_ms: int
    observer: str
    run_id: str
    observed_turn: int | None
    notes: bytes
    digest: bytes
    ttl_us: int | None
    former_ttl_ms: int | None


class FailRun(NamedTuple):
    """End a run without notes."""

    session_id: str
    default_ttl_ms: int
    observer: str
    run_id: str
    reason: str


class RenewRun(NamedTuple):
    """Give a run a new lease."""

    session_id: str
    default_ttl_ms: int
    observer: str
    run_id: str
    lease_us: int


class ListRuns(NamedTuple):
    """Read up to `limit` runs whose numbers are below `below`, newest first."""

    observer: str
    below: int | None
    limit: int
    include_notes: bool
    max_reply_bytes: int | None


class DueSession(NamedTuple):
    """Read a session's entry in a listing of due sessions, if it is due. All bounds are inclusive."""

    observer: str
    min_turns_behind: int
    min_interval_us: int
    min_quiet_us: int


class GetSession(NamedTuple):
    """Read a whole session."""

    include_turns: bool
    max_reply_bytes: int | None


class UpdateSession(NamedTuple):
    """Set fields, with names and values in the same order, and remove others."""

    session_id: str
    default_ttl_ms: int
    expected_version: int | None
    ttl_ms: int | None
    set_names: Sequence[str]
    set_values: Sequence[bytes]
    remove_names: Sequence[str]


class AppendTurns(NamedTuple):
    """Append turns to the transcript, at most once if `append_id` is not empty."""

    session_id: str
    default_ttl_ms: int
    append_id: str
    digest: bytes
    expected_turn_count: int | None
    former_ttl_ms: int | None
    turns: Sequence[bytes]


class DeleteSession(NamedTuple):
    """Remove a session."""


class SessionSummary(NamedTuple):
    """Read a session's entry in a listing."""


Arguments: TypeAlias = (
    GetNotes
    | BeginRun
    | WriteNotes
    | FailRun
    | RenewRun
    | ListRuns
    | DueSession
    | GetSession
    | UpdateSession
    | AppendTurns
    | DeleteSession
    | SessionSummary
)

READS = {GetNotes, ListRuns, DueSession, GetSession, SessionSummary}
"""Scripts that change nothing."""

OUTCOMES = frozenset({"OK", "ACCEPTED", "DUPLICATE", "SUPERSEDED"})
"""First words of successful replies from scripts that can refuse. Any other first word is a refusal."""

_FOLDER = files(__package__) / "lua"
# ARGV[1] is the tag; see `lua/common.lua`.
_FIRST_ARGUMENT = 2
# Lua expressions for scalar arguments. An absent argument is sent as '', which `tonumber` converts to nil.
_FROM_ARGV = {
    str: "ARGV[{0}]",
    bytes: "ARGV[{0}]",
    bool: "ARGV[{0}] == '1'",
    int: "tonumber(ARGV[{0}])",
    int | None: "tonumber(ARGV[{0}])",
}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script.

    Attributes:
        name: Name of the script.
        text: Source of the script.
        sha: SHA-1 digest by which EVALSHA finds it.
        is_plain: Whether no argument is a bool or a list.
    """

    name: str
    text: str
    sha: str
    is_plain: bool

    @classmethod
    def of(cls, name: str, text: str, *, is_plain: bool = True) -> Self:
        """Return a script with this source."""
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), is_plain)

    @classmethod
    def load(cls, arguments: type[Arguments]) -> Self:
        """Read the script of a signature, and prepend the shared code and the locals for its arguments."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", arguments.__name__).lower()
        kinds = get_type_hints(arguments)
        changes = [] if arguments in READS else [_lua("changes")]
        text = "\n".join([_shared(), *changes, _locals(arguments.__name__, kinds), _lua(name)])
        is_plain = not any(kind is bool or get_origin(kind) is Sequence for kind in kinds.values())
        return cls.of(name, text, is_plain=is_plain)

    def evalsha(self, keys: Sequence[str], tag: int, arguments: Sequence[Any]) -> bytes:
        """Return the command that runs the script by its digest. A node that lacks the script replies NOSCRIPT."""
        return pack("EVALSHA", self.sha, len(keys), *keys, tag, *self._words(arguments))

    def eval(self, keys: Sequence[str], tag: int, arguments: Sequence[Any]) -> bytes:
        """Return the command that runs the script by its source, after which the node knows it."""
        return pack("EVAL", self.text, len(keys), *keys, tag, *self._words(arguments))

    def _words(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the arguments in the form the script expects: '' for None, 1 for True, lists after their length."""
        if self.is_plain:  # Takes a third of the time, and GetNotes is plain.
            return ["" if argument is None else argument for argument in arguments]
        words = list[Any]()
        for argument in arguments:
            if argument is None:
                words.append("")
            elif isinstance(argument, bool):
                words.append(int(argument))
            elif isinstance(argument, str | bytes | int):
                words.append(argument)
            else:
                words += (len(argument), *argument)
        return words


def _lua(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


@cache
def _shared() -> str:
    """Return the Lua before every script: the limits, the states of a run, and `lua/common.lua`."""
    numbers = {**{name: value for name, value in vars(limits).items() if name.isupper()}, **State.__members__}
    return "\n".join([*(f"local {name} = {value:d}" for name, value in numbers.items()), _lua("common")])


def _locals(signature: str, kinds: Mapping[str, Any]) -> str:
    """Return Lua that defines a local for each argument. Lists come last, each after its length."""
    lines, lists = list[str](), 0
    for index, (name, kind) in enumerate(kinds.items(), _FIRST_ARGUMENT):
        if get_origin(kind) is Sequence:
            lines.append(f"local {name}, next_argument = read_list({'next_argument' if lists else index})")
            lists += 1
        else:
            if lists:
                raise AssertionError(f"{signature}: {name} comes after a list")
            lines.append(f"local {name} = {_FROM_ARGV[kind].format(index)}")
    return "\n".join(lines)


SCRIPTS = {arguments: Script.load(arguments) for arguments in get_args(Arguments)}
"""The script of each signature."""

COMMANDS = (
    *("time", "exists KEY", "unlink KEY", "rename KEY KEY", "pttl KEY", "pexpireat KEY 1"),
    *("hget KEY field", "hgetall KEY", "hmget KEY field", "hstrlen KEY field"),
    *("hset KEY field 1", "hsetnx KEY field 1", "hdel KEY field", "hincrby KEY field 1"),
    *("lrange KEY 0 1", "lpop KEY", "rpush KEY 1", "rpushx KEY 1"),
)
"""Every command inside the scripts, with well-formed arguments."""

FORBIDDEN_COMMANDS = """
-- Return the names of the commands that the user may not run, or that the store does not have. Empty before Redis 7,
-- which cannot check.
local function forbidden_commands(key, commands)
  local forbidden = {}
  if not redis.acl_check_cmd then return forbidden end
  for _, command in ipairs(commands) do
    local words = {}
    for word in string.gmatch(command, '%S+') do
      words[#words + 1] = word == 'KEY' and key or word
    end
    local exists, is_permitted = pcall(redis.acl_check_cmd, unpack(words))
    if not exists or not is_permitted then forbidden[#forbidden + 1] = words[1] end
  end
  return forbidden
end
"""
"""Lua that checks the user's permissions."""

PROBE = Script.of(
    "probe",
    f"""{FORBIDDEN_COMMANDS}
redis.call('RPUSHX', KEYS[1], '')
local forbidden = forbidden_commands(KEYS[1], {{ '{"', '".join(COMMANDS)}' }})
if forbidden[1] then return redis.error_reply("NOPERM no permissions to run the '" .. forbidden[1] .. "' command") end
return {{ ARGV[1] }}""",
)
"""A write that changes nothing, for health checks. KEYS[1] never exists, so nothing is stored, replicated or logged.

RPUSHX is refused wherever a write is: on a replica, out of memory, with a full disk. A store can also serve RPUSHX and
refuse another command, such as one that the user's permissions do not list yet. ARGV[1] is the tag.
"""


def refusals() -> frozenset[str]:
    """Return the names of all refusals: every `return { TAG, 'NAME'` in a script that is not an outcome."""
    texts = [entry.read_text(encoding="utf-8") for entry in _FOLDER.iterdir() if entry.name.endswith(".lua")]
    names = {name for text in texts for name in re.findall(r"return \{ TAG, '([A-Z_]+)'", text)}
    return frozenset(names - OUTCOMES)
