"""The dashboard, the alerts and the docs use exactly the metrics that a running sidecar exposes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scraping import METRICS, Scrape, scrape
from tests.support import Sidecar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "session-notes.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())

# Words of PromQL other than names of metrics and labels.
AGGREGATIONS = {"sum", "min", "max", "avg", "count"}
FUNCTIONS = {"rate", "increase", "histogram_quantile", "absent"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}
# Metrics of Prometheus itself, and the labels it adds to every series.
OF_PROMETHEUS, TARGET = {"up": {"job", "instance"}}, {"job", "instance"}


@pytest.fixture(scope="module")
def seen() -> Scrape:
    """A scrape of a running sidecar."""
    with Sidecar(flags=METRICS) as sidecar:
        return scrape(sidecar)


@pytest.fixture(scope="module")
def told(seen: Scrape) -> dict[str, set[str]]:
    """Return the names of all samples with their labels."""
    names: dict[str, set[str]] = {}
    for sample in seen.samples:
        names.setdefault(sample.name, set()).update(sample.labels)
    return names


def check(expression: str, known: dict[str, set[str]]) -> None:
    """Assert that every metric and label in a PromQL expression exists. Fails on anything it cannot parse."""
    known = known | OF_PROMETHEUS
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    rest = re.sub(r"\[\$?\w+\]", "", rest)
    labels: set[str] = set()
    for matchers in re.findall(r"\{(.*?)\}", rest):
        for matcher in filter(None, map(str.strip, matchers.split(","))):
            found = re.fullmatch(r'(\w+)\s*(?:=~|!~|!=|=)\s*""', matcher)
            assert found, f"no matcher: {matcher}"
            labels.add(found[1])
    rest = re.sub(r"\{.*?\}", "", rest)
    for _, inside in re.findall(rf"\b({'|'.join(GROUPING)})\s*\(([^)]*)\)", rest):
        labels |= set(filter(None, map(str.strip, inside.split(","))))
    rest = re.sub(rf"\b({'|'.join(GROUPING)})\s*\([^)]*\)", "", rest)
    metrics = set()
    for word, call in re.findall(r"([A-Za-z_:][\w:]*)\s*(\(?)", rest):
        if call:
            assert word in AGGREGATIONS | FUNCTIONS, f"no function: {word}"
        elif word not in AGGREGATIONS | OPERATORS:
            metrics.add(word)
    assert metrics, f"no metric in {expression}"
    assert metrics <= known.keys(), f"not told by a sidecar: {metrics - known.keys()}"
    have = set.union(TARGET, *(known[metric] for metric in metrics))
    assert labels <= have, f"labels that {metrics} have not: {labels - have}"
    leftover = re.sub(r"[A-Za-z_:][\w:]*|\d+(\.\d+)?|[-+*/(),<>=!\s]", "", rest)
    assert not leftover, f"cannot read {leftover!r} in {expression}"


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(session_notes_read_total[5m])",
        'rate(session_notes_reads_total{ready="true"}[5m])',
        "sum by (session) (session_notes_store_up)",
        "rates(session_notes_reads_total[5m])",
        "session_notes_reads_total ? 1",
        "1 > 0",
    ],
)
def test_unknown_names_are_rejected(wrong: str, told: dict[str, set[str]]) -> None:
    """The check rejects unknown metrics, labels and functions."""
    with pytest.raises(AssertionError):
        check(wrong, told)


@pytest.mark.parametrize("rule", ALERTS["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_alerts_use_existing_metrics(rule: dict[str, Any], told: dict[str, set[str]]) -> None:
    """Each alert uses existing metrics and labels, and describes the problem and the next step."""
    check(rule["expr"], told)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert f"`{rule['alert']}`" in PAGE


def queries() -> Iterator[tuple[str, str]]:
    """Yield every query of the dashboard with the title of its panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_the_dashboard_uses_existing_metrics(told: dict[str, set[str]]) -> None:
    """Each panel uses existing metrics and labels, and the data source chosen by the user."""
    asked = list(queries())
    assert len(asked) > 20
    for title, expression in asked:
        check(expression, told)
        assert 'job=~"$job", instance=~"$instance"' in expression, title
    for variable in DASHBOARD["templating"]["list"][1:]:
        (metric,) = re.findall(r"label_values\((\w+)", variable["definition"])
        assert metric in told
    sources = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert sources == {"${datasource}"}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


def test_the_dashboard_shows_every_metric(told: dict[str, set[str]]) -> None:
    """Every metric of the sidecar is on the dashboard."""
    text = " ".join(expression for _, expression in queries())
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told if name.startswith("session_notes_")}
    assert {name for name in families if name not in text} == set()


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics in the tables of docs/observability.md, with type and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| [^|]+ \|$", PAGE, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def in_words(seen: Scrape) -> dict[str, tuple[str, set[str]]]:
    """Return the metrics of a scrape in the same form."""
    found = {}
    for family in seen.families.values():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    return found


def test_the_docs_have_every_metric(seen: Scrape) -> None:
    """The tables of docs/observability.md list exactly the exposed metrics, with type and labels."""
    assert documented() == in_words(seen)
