"""Redis URLs: the accepted forms, and error messages without secrets."""

import pytest
from session_notes_server.store import InvalidRedisURL, RedisTarget


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://user:s3cret@10.0.0.1:7000/2", "redis://10.0.0.1:7000"),
        ("rediss://:s3cret@cache.example:6380", "rediss://cache.example:6380"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis+cluster://:s3cret@a:7000,b:7001", "redis+cluster://a:7000,b:7001"),
        ("redis+sentinel://a,b:26380/mymaster/1", "redis+sentinel://a:26379,b:26380"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
    ],
)
def test_the_name_of_a_url_holds_no_secret(url: str, name: str) -> None:
    """A URL of any form is accepted, and its name in logs has no password, user or database."""
    assert RedisTarget.parse(url).name == name


@pytest.mark.parametrize(
    ("url", "user", "password", "db", "host"),
    [
        ("redis://a%40b:p%2Fw%23%25%3F@h/%32", "a@b", "p/w#%?", 2, "h"),
        ("redis://:p%2541@h", "", "p%41", 0, "h"),
        ("redis://:p@ss@h", "", "p@ss", 0, "h"),
        ("redis://:p[ss]@h", "", "p[ss]", 0, "h"),
        ("redis://:p:w@[fe80::1%25eth0]:7000", "", "p:w", 0, "fe80::1%eth0"),
        ("unix:///run/a%23b%3Fc%2541%20d/s?db=%33", "", "", 3, "/run/a#b?c%41 d/s"),
        ("unix://u:p%2F@/run/a@b", "u", "p/", 0, "/run/a@b"),
        ("REDIS://H", "", "", 0, "H"),
        (" redis://h\n", "", "", 0, "h"),
    ],
)
def test_percent_encoding_is_decoded_once(url: str, user: str, password: str, db: int, host: str) -> None:
    """User, password, database, socket path and host are decoded once, whether they are encoded or not."""
    target = RedisTarget.parse(url)
    assert (target.user, target.password, target.db) == (user, password, db)
    assert target.addresses[0].host == host


def test_the_service_of_a_sentinel_is_decoded_once() -> None:
    """An encoded slash is part of the service's name. The database follows the name."""
    target = RedisTarget.parse("redis+sentinel://h/my%2Fmaster%2541/3")
    assert (target.service, target.db) == ("my/master%41", 3)


@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+cluster", "redis+sentinel", "unix"])
@pytest.mark.parametrize(
    "password", ["p@ss/word#1", "s3cret/x", "s3cret#x", "s3cret?x", "1234/s3cret", "/s3cret", "#", "a/b"]
)
def test_a_password_that_must_be_encoded_gets_advice(kind: str, password: str) -> None:
    """A password with a character that would end the URL's host part is rejected with advice, and is not quoted."""
    location = "/run/s" if kind == "unix" else "h:6379/main" if kind.endswith("sentinel") else "h:6379"
    with pytest.raises(InvalidRedisURL) as rejected:
        RedisTarget.parse(f"{kind}://:{password}@{location}")
    message = str(rejected.value)
    assert "percent-encode" in message
    assert "--redis-password-file" in message
    assert not any(part in message for part in ("s3cret", "p@ss", "1234"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://::1:6379", "in brackets"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix:///run/a#b", "%23"),
        ("unix://", "path of the socket"),
        ("redis://h:0", "between 1 and 65535"),
        ("rediss://a,b:6380", r"only rediss\+cluster:// and rediss\+sentinel://"),
        ("redis://h/-1", "database"),
        ("redis://h x", "no host can have"),
        ("redis://:p%FF@h", "not a Redis URL"),
    ],
)
def test_an_error_names_the_invalid_part(url: str, message: str) -> None:
    """The message names the invalid part of the URL."""
    with pytest.raises(InvalidRedisURL, match=message):
        RedisTarget.parse(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("http://s3cret@localhost", "another scheme"),
        ("redis://s3cret@", "no host"),
        ("redis://localhost:s3cret", "an invalid port"),
        ("redis://localhost:99999", "an invalid port"),
        ("redis+cluster://:s3cret@a:7000,", "an empty host in the list"),
        ("redis+sentinel://:s3cret@localhost:26379", "no service"),
        ("redis+sentinel://localhost:26379/mymaster/s3cret", "an invalid database"),
    ],
)
def test_an_error_shows_the_accepted_forms(url: str, reason: str) -> None:
    """The message for an invalid URL lists the accepted forms, and quotes no secret."""
    with pytest.raises(InvalidRedisURL) as rejected:
        RedisTarget.parse(url)
    assert "redis+sentinel://" in str(rejected.value), reason
    assert "s3cret" not in str(rejected.value), reason
