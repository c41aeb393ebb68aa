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
