"""Scrapes of a sidecar's metrics, as Prometheus makes them."""

import re
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support import Sidecar

METRICS = ("--metrics-listen", "127.0.0.1:0")


class Scrape:
    """One scrape, with the value of every series."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of the metric's series with these labels. At least one series must exist."""
        values = [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert values, f"no {name} with {labels}"
        return sum(values)

    def series(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the values of a metric's series that are not 0, by the values of some labels."""
        values: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == name and sample.value:
                key = tuple(sample.labels[label] for label in labels)
                values[key] = values.get(key, 0) + sample.value
        return values


def address(sidecar: Sidecar) -> tuple[str, int]:
    """Return the address of a sidecar's metrics since its last start, from its log."""
    *_, (host, port) = re.findall(r"metrics at http://([\d.]+):(\d+)/metrics", sidecar.log)
    return host, int(port)


def scrape(sidecar: Sidecar) -> Scrape:
    """Scrape a sidecar."""
    host, port = address(sidecar)
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return Scrape(response.read().decode())
