"""The findings of `session-notes doctor`."""

from tests.cli.program import Result
from tests.support import leaks

SIDECAR_CHECKS = ["address", "protocol", "health", "engine", "credentials", "contract", "reads"]


class Diagnosis:
    """The findings of one `doctor --json` about the sidecar or the store."""

    def __init__(self, result: Result, about: str = "sidecar") -> None:
        self.code, self.document = result.code, result.json
        findings = [finding for finding in self.document["checks"] if finding["about"] == about]
        self.checks = [finding["check"] for finding in findings]
        self._findings = {finding["check"]: finding for finding in findings}
        assert (result.code == 1) == (not self.document["ok"])
        assert (result.code == 1) == any(finding["verdict"] == "problem" for finding in self.document["checks"])
        for finding in self.document["checks"]:
            assert finding["says"]
            assert finding["advice"] or finding["verdict"] in ("ok", "skipped"), finding
        assert not leaks(result.out), "the output contains a secret or user data"

    def verdict(self, check: str) -> str:
        return str(self._findings[check]["verdict"])

    def says(self, check: str) -> str:
        return str(self._findings[check]["says"])

    def advice(self, check: str) -> str:
        return str(self._findings[check]["advice"])

    @property
    def problem(self) -> str:
        """The only problem, which is the last finding, as `check: text`."""
        problems = [name for name in self.checks if self.verdict(name) == "problem"]
        assert problems == self.checks[-1:], self.document
        return f"{problems[0]}: {self.says(problems[0])}"
