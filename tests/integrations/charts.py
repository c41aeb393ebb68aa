"""Helpers that render the Helm charts in deploy/ and run programs on its files."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integrations.base_image import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/session-notes"
KUBERNETES = "1.34"
HELM = shutil.which("helm")
needs_helm = pytest.mark.skipif(
    HELM is None, reason="no helm on PATH (go install helm.sh/helm/v3/cmd/helm@v3.16.4): charts are not rendered"
)

SECURE = ("--set", "redis.url=rediss://redis:6380,deployment.tlsSecret=tls,tokensSecret=tokens,redis.secret=redis")
"""The values that the chart requires."""


def run(*command: str | Path) -> str:
    """Return the output of a program.

    Raises:
        AssertionError: If the program fails. The message is its output.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(chart: Path, *flags: str) -> str:
    """Return the manifests of a chart."""
    assert HELM is not None
    return run(HELM, "template", "notes", chart, "--kube-version", KUBERNETES, *flags)
