"""What Prometheus would see of a sidecar."""

import re
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support import Sidecar

ON = ("--metrics-listen", "127.0.0.1:0")


class Scrape:
    """One scrape: every series with its value.

    Args:
        text: What was answered.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that have these labels, of which there must be one."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        assert found, f"there is no {name} with {labels}"
        return sum(found)

    def series(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """A metric's series that are not 0, by the values of some labels."""
        found: dict[tuple[str, ...], float] = {}
        for one in self.samples:
            if one.name == name and one.value:
                key = tuple(one.labels[label] for label in labels)
                found[key] = found.get(key, 0) + one.value
        return found


def address(sidecar: Sidecar) -> tuple[str, int]:
    """Where it tells its metrics, as its log says."""
    (found,) = re.findall(r"metrics at http://([\d.]+):(\d+)/metrics", sidecar.log)
    return found[0], int(found[1])


def scrape(sidecar: Sidecar) -> Scrape:
    """Asks as Prometheus does."""
    host, port = address(sidecar)
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return Scrape(answer.read().decode())
