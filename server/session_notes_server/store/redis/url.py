"""Redis URLs: the accepted forms, and errors that suggest corrections without revealing secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, unquote

from session_notes_server.settings import InvalidSetting


class InvalidRedisURL(InvalidSetting):
    """An invalid Redis URL. The message contains no secrets, so it can be shown to a user."""


FORMS = """\
  redis://[user:password@]host[:port][/db]
  unix://[user:password@]/path/to/socket[?db=n]
  redis+cluster://[user:password@]host:port[,host:port…]
  redis+sentinel://[user:password@]host:port[,host:port…]/service[/db]
With TLS: rediss://, rediss+cluster:// or rediss+sentinel://"""

_SCHEMES = {f"{scheme}{kind}" for scheme in ("redis", "rediss") for kind in ("", "+cluster", "+sentinel")} | {"unix"}
_REDIS_PORT, _SENTINEL_PORT = 6379, 26379

# urlsplit rejects passwords with brackets, and mistakes a password with a slash for a host.
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?",
    re.DOTALL | re.IGNORECASE,
)
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:]*)(?::(?P<port>[0-9]*))?")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a node. With port 0, `host` is the path of a unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.port and ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, slots=True)
class RedisURL:
    """The parts of a Redis URL, with percent-encoding decoded."""

    scheme: str
    addresses: tuple[Address, ...]
    service: str
    user: str
    password: str
    db: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL of one of the FORMS.

        Raises:
            InvalidRedisURL: If it has another form.
        """
        try:
            return cls._parse(text.strip())
        except InvalidRedisURL as error:
            raise InvalidRedisURL(f"not a Redis URL: {error}. Write one of\n{FORMS}") from None
        except ValueError:
            raise InvalidRedisURL(f"not a Redis URL. Write one of\n{FORMS}") from None

    @property
    def name(self) -> str:
        """The URL for logs, without user, password and database."""
        return f"{self.scheme}://{','.join(map(str, self.addresses))}"

    @classmethod
    def _parse(cls, text: str) -> Self:
        parts = _URL.fullmatch(text)
        if parts is None:
            raise InvalidRedisURL("the scheme is missing")
        scheme, query = parts["scheme"].lower(), parts["query"] or ""
        if scheme not in _SCHEMES:
            raise InvalidRedisURL(f"unknown scheme {scheme!r}")
        login, _, hosts = parts["authority"].rpartition("@")
        user, _, password = login.partition(":")
        path, service = parts["path"], ""
        if (scheme != "unix" or hosts) and "@" in text[parts.end("authority") :]:
            raise InvalidRedisURL(_ENCODE)
        if scheme == "unix":
            if hosts:
                raise InvalidRedisURL("a socket has no host: write unix:// and an absolute path")
            if parts["fragment"] is not None:
                raise InvalidRedisURL("percent-encode the path: '#' is %23, '?' is %3F")
            addresses: tuple[Address, ...] = (_socket(path),)
            path = ""
        else:
            default = _SENTINEL_PORT if scheme.endswith("+sentinel") else _REDIS_PORT
            addresses = tuple(_address(part.strip(), default) for part in hosts.split(","))
            if len(addresses) > 1 and scheme in ("redis", "rediss"):
                raise InvalidRedisURL(f"only {scheme}+cluster:// and {scheme}+sentinel:// have several hosts")
        if scheme.endswith("+sentinel"):
            service, _, path = path.lstrip("/").partition("/")
            if not service:
                raise InvalidRedisURL("the name of the service that Sentinel watches is missing")
        options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
        if not options.keys() <= {"db"} or parts["fragment"]:
            raise InvalidRedisURL("nothing but db may follow the '?'")
        db = options["db"][0] if options else _decode(path.strip("/"))
        if not re.fullmatch("[0-9]*", db):
            raise InvalidRedisURL("the database is not a number")
        return cls(scheme, addresses, _decode(service), _decode(user), _decode(password), int(db or 0))


_ENCODE = (
    "the user or the password contains a character that is special in a URL: percent-encode it ('/' is %2F, "
    "'#' is %23, '?' is %3F, '@' is %40, '%' is %25), or use --redis-password-file"
)


def _decode(text: str) -> str:
    return unquote(text, errors="strict")


def _socket(path: str) -> Address:
    path = unquote(path, errors="surrogateescape")  # A file name need not be UTF-8.
    if path.endswith("/") or not path or "\0" in path:
        raise InvalidRedisURL("the path of the socket is missing")
    return Address(path, 0)


def _address(text: str, default_port: int) -> Address:
    parts = _HOST_AND_PORT.fullmatch(text)
    if parts is None:
        is_bare_ipv6 = re.fullmatch("[0-9A-Fa-f:.]+", text)
        raise InvalidRedisURL(
            "an IPv6 address belongs in brackets: [::1]:6379" if is_bare_ipv6 else "a port is not a number"
        )
    host = _decode(parts["host"].removeprefix("[").removesuffix("]"))
    if not host:
        raise InvalidRedisURL("a host is missing")
    if not host.isprintable() or " " in host or "@" in host:
        raise InvalidRedisURL("a host has a character that no host can have")
    port = int(parts["port"] or default_port)
    if not 0 < port < 65536:
        raise InvalidRedisURL("a port is not between 1 and 65535")
    return Address(host, port)
