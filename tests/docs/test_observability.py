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

# Keywords of PromQL.
AGGREGATIONS = {"sum", "min", "max", "avg", "count"}
FUNCTIONS = {"rate", "increase", "histogram_quantile", "absent"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}
# Metrics of Prometheus itself, and the labels it adds to every series.
OF_PROMETHEUS, TARGET = {"up": {"job", "instance"}}, {"job", "instance"}


@pytest.fixture(scope="module")
def current_scrape() -> Scrape:
    """A scrape of a running sidecar."""
    with Sidecar(flags=METRICS) as sidecar:
        return scrape(sidecar)


@pytest.fixture(scope="module")
def exposed(current_scrape: Scrape) -> dict[str, set[str]]:
    """The labels of each metric that the sidecar exposes."""
    names: dict[str, set[str]] = {}
    for sample in current_scrape.samples:
        names.setdefault(sample.name, set()).update(sample.labels)
    return names


def check(expression: str, labels_by_metric: dict[str, set[str]]) -> None:
    """Assert that every metric and label in a PromQL expression exists. Fail on anything that cannot be parsed."""
    labels_by_metric = labels_by_metric | OF_PROMETHEUS
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    rest = re.sub(r"\[\$?\w+\]", "", rest)
    labels: set[str] = set()
    for matchers in re.findall(r"\{(.*?)\}", rest):
        for matcher in filter(None, map(str.strip, matchers.split(","))):
            match = re.fullmatch(r'(\w+)\s*(?:=~|!~|!=|=)\s*""', matcher)
            assert match, f"not a matcher: {matcher}"
            labels.add(match[1])
    rest = re.sub(r"\{.*?\}", "", rest)
    for _, inside in re.findall(rf"\b({'|'.join(GROUPING)})\s*\(([^)]*)\)", rest):
        labels |= set(filter(None, map(str.strip, inside.split(","))))
    rest = re.sub(rf"\b({'|'.join(GROUPING)})\s*\([^)]*\)", "", rest)
    metrics = set()
    for word, call in re.findall(r"([A-Za-z_:][\w:]*)\s*(\(?)", rest):
        if call:
            assert word in AGGREGATIONS | FUNCTIONS, f"unknown function: {word}"
        elif word not in AGGREGATIONS | OPERATORS:
            metrics.add(word)
    assert metrics, f"no metric in {expression}"
    assert metrics <= labels_by_metric.keys(), f"not exposed by a sidecar: {metrics - labels_by_metric.keys()}"
    have = set.union(TARGET, *(labels_by_metric[metric] for metric in metrics))
    assert labels <= have, f"labels missing from {metrics}: {labels - have}"
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
def test_unknown_names_are_rejected(wrong: str, exposed: dict[str, set[str]]) -> None:
    """The check rejects unknown metrics, labels and functions."""
    with pytest.raises(AssertionError):
        check(wrong, exposed)


@pytest.mark.parametrize("rule", ALERTS["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_alerts_use_existing_metrics(rule: dict[str, Any], exposed: dict[str, set[str]]) -> None:
    """Each alert uses existing metrics and labels, and describes the problem and the next step."""
    check(rule["expr"], exposed)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert f"`{rule['alert']}`" in PAGE


def queries() -> Iterator[tuple[str, str]]:
    """Yield every query of the dashboard with the title of its panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_the_dashboard_uses_existing_metrics(exposed: dict[str, set[str]]) -> None:
    """Each panel uses existing metrics and labels, and the data source chosen by the user."""
    expressions = list(queries())
    assert len(expressions) > 20
    for title, expression in expressions:
        check(expression, exposed)
        assert 'job=~"$job", instance=~"$instance"' in expression, title
    for variable in DASHBOARD["templating"]["list"][1:]:
        (metric,) = re.findall(r"label_values\((\w+)", variable["definition"])
        assert metric in exposed
    sources = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert sources == {"${datasource}"}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


def test_the_dashboard_shows_every_metric(exposed: dict[str, set[str]]) -> None:
    """Every metric of the sidecar is on the dashboard."""
    text = " ".join(expression for _, expression in queries())
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("session_notes_")}
    assert {name for name in families if name not in text} == set()


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics in the tables of docs/observability.md, with type and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\| [^|]+ \|$", PAGE, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def exposed_metrics(current_scrape: Scrape) -> dict[str, tuple[str, set[str]]]:
    """Return the metrics of a scrape in the same form."""
    metrics = {}
    for family in current_scrape.families.values():
        name = family.name + ("_total" if family.type == "counter" else "")
        metrics[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    return metrics


def test_the_docs_have_every_metric(current_scrape: Scrape) -> None:
    """The tables of docs/observability.md list exactly the exposed metrics, with type and labels."""
    assert documented_metrics() == exposed_metrics(current_scrape)
