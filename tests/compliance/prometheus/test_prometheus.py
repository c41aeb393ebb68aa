"""promtool: the alerts are valid rules that fire when they should and only then, and scrapes are valid metrics."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.compliance.tools import ROOT, program
from tests.scraping import METRICS, scrape
from tests.support import Sidecar
from tests.worker_processes import WORKERS, needs_linux

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
UNIT_TESTS = Path(__file__).with_name("alerts_test.yml")


def promtool(*arguments: str | Path, stdin: str | None = None) -> None:
    """Run promtool, and check that it finds nothing wrong."""
    command = [program("promtool"), *map(str, arguments)]
    result = subprocess.run(command, input=stdin, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_alerts_are_valid() -> None:
    """promtool accepts the file with the alerts, and its linter finds nothing."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)


def test_each_alert_fires_only_on_its_problem() -> None:
    """On series with an alert's problem, it fires after its time; before, afterwards and on others, it does not."""
    promtool("test", "rules", UNIT_TESTS)


def test_each_alert_is_tested() -> None:
    """The unit tests expect every alert to fire, and to be silent."""
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    fires, silent = set[str](), set[str]()
    for case in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for check in case["promql_expr_test"]:
            (alert,) = re.findall(r'alertname="(\w+)"', check["expr"])
            (fires if check["exp_samples"] else silent).add(alert)
    assert fires == silent == alerts


@pytest.mark.parametrize("flags", [(), pytest.param(WORKERS, marks=needs_linux)], ids=["alone", "workers"])
def test_metrics_are_valid(flags: tuple[str, ...]) -> None:
    """promtool accepts a scrape, and its linter finds nothing against Prometheus's rules for names, units and types."""
    with Sidecar(flags=[*METRICS, *flags]) as sidecar:
        promtool("check", "metrics", stdin=scrape(sidecar).text)
