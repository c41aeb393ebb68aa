"""The findings of `session-notes doctor`."""

from tests.cli.program import Ended
from tests.support import leaks

SIDECAR_CHECKS = ["address", "protocol", "health", "credentials", "contract", "reads"]


class Diagnosis:
    """The findings of a `doctor --json` about the sidecar or the store."""

    def __init__(self, ended: Ended, about: str = "sidecar") -> None:
        self.code, self.document = ended.code, ended.json
        findings = [finding for finding in self.document["checks"] if finding["about"] == about]
        self.checks = [finding["check"] for finding in findings]
        self._findings = {finding["check"]: finding for finding in findings}
        assert (ended.code == 1) == (not self.document["ok"])
        assert (ended.code == 1) == any(finding["verdict"] == "problem" for finding in self.document["checks"])
        for finding in self.document["checks"]:
            assert finding["says"]
            assert finding["advice"] or finding["verdict"] in ("ok", "skipped"), finding
        assert not leaks(ended.out), "it holds a secret, or what a user said"

    def verdict(self, check: str) -> str:
        return str(self._findings[check]["verdict"])

    def says(self, check: str) -> str:
        return str(self._findings[check]["says"])

    def advice(self, check: str) -> str:
        return str(self._findings[check]["advice"])

    @property
    def problem(self) -> str:
        """The only problem, as `check: text`. No check follows it."""
        problems = [name for name in self.checks if self.verdict(name) == "problem"]
        assert problems == self.checks[-1:], self.document
        return f"{problems[0]}: {self.says(problems[0])}"
