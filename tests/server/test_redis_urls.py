"""Which Redis URLs are understood, and what is said of them where people can read it."""

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
        ("redis://[::1]:7000", "redis://::1:7000"),
    ],
)
def test_a_url_is_named_without_its_secret(url: str, name: str) -> None:
    """A URL of any form is taken, and what the log calls it has no password, no user, no database."""
    assert RedisTarget.parse(url).name == name


@pytest.mark.parametrize(
    ("url", "user", "password", "db", "where"),
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
def test_what_is_encoded_in_a_url_is_decoded_once(url: str, user: str, password: str, db: int, where: str) -> None:
    """User, password, database, socket and host: percent-encoded or not, each means one thing."""
    target = RedisTarget.parse(url)
    assert (target.user, target.password, target.db) == (user, password, db)
    assert target.addresses[0].host == where


def test_the_service_of_a_sentinel_is_decoded_once() -> None:
    """A name with a slash, encoded, is one name; the database comes after it."""
    target = RedisTarget.parse("redis+sentinel://h/my%2Fmaster%2541/3")
    assert (target.service, target.db) == ("my/master%41", 3)


@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+cluster", "redis+sentinel", "unix"])
@pytest.mark.parametrize(
    "password", ["p@ss/word#1", "s3cret/x", "s3cret#x", "s3cret?x", "1234/s3cret", "/s3cret", "#", "a/b"]
)
def test_a_password_that_is_not_encoded_is_said_so(kind: str, password: str) -> None:
    """A character that ends the host's part of a URL: percent-encode it, or use a file; the password is not shown."""
    where = "/run/s" if kind == "unix" else "h:6379/main" if kind.endswith("sentinel") else "h:6379"
    with pytest.raises(InvalidRedisURL) as refused:
        RedisTarget.parse(f"{kind}://:{password}@{where}")
    said = str(refused.value)
    assert "percent-encode" in said
    assert "--redis-password-file" in said
    assert not any(part in said for part in ("s3cret", "p@ss", "1234"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://::1:6379", "in brackets"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix:///run/a#b", "%23"),
        ("unix://", "path of the socket"),
        ("redis://h:0", "between 1 and 65535"),
        ("redis://h/-1", "database"),
        ("redis://h x", "no host can have"),
        ("redis://:p%FF@h", "not a Redis URL"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, said: str) -> None:
    """The part that is wrong is named."""
    with pytest.raises(InvalidRedisURL, match=said):
        RedisTarget.parse(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("http://s3cret@localhost", "another scheme"),
        ("redis://s3cret@", "no host"),
        ("redis://localhost:s3cret", "a port that is none"),
        ("redis://localhost:99999", "a port that is none"),
        ("redis+cluster://:s3cret@a:7000,", "an empty host in the list"),
        ("redis+sentinel://:s3cret@localhost:26379", "no service"),
        ("redis+sentinel://localhost:26379/mymaster/s3cret", "a database that is none"),
    ],
)
def test_a_wrong_url_is_refused_with_the_forms(url: str, why: str) -> None:
    """A URL that is none is refused at once, with the forms there are and without what it said."""
    with pytest.raises(InvalidRedisURL) as refused:
        RedisTarget.parse(url)
    assert "redis+sentinel://" in str(refused.value), why
    assert "s3cret" not in str(refused.value), why
