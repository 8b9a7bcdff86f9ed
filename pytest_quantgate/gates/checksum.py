"""The file is the one somebody vouched for: SHA-256 against a sidecar, a sums file or a literal."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.records import Check, Outcome

if TYPE_CHECKING:
    from pytest_quantgate.artifact.integrity import Verification

SHOWN_DIGITS = 16


class ChecksumSettings(GateSettings):
    """Where the expected digest comes from; with neither key, from the sidecar beside the file."""

    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="Expected SHA-256 of the model file, 64 hexadecimal digits",
    )
    sums: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a SHA256SUMS file that lists the model file",
    )


class ChecksumGate(Gate[ChecksumSettings, "Verification"]):
    """The digest of every part of the model file is the expected one."""

    name = "checksum"
    settings = ChecksumSettings
    loads_model: ClassVar[bool] = False

    def needs_baseline(self, settings: ChecksumSettings) -> bool:  # noqa: ARG002 - the interface's
        """Compare with nothing."""
        return False

    def measure(self, settings: ChecksumSettings, bench: Bench) -> Verification:
        """Hash the candidate's file."""
        sums = None if settings.sums is None else bench.file(settings.sums)
        return bench.verification(literal=settings.sha256, sums=sums)

    def judge(
        self,
        settings: ChecksumSettings,  # noqa: ARG002 - the interface's
        evidence: Verification,
        bench: Bench,  # noqa: ARG002 - the interface's
    ) -> Judgement:
        """Fail on another digest and on a file nobody vouched for."""
        name = evidence.path.name
        findings: tuple[str, ...] = ()
        advice: tuple[str, ...] = ()
        actual = evidence.actual[:SHOWN_DIGITS]
        expected = (evidence.expected or "")[:SHOWN_DIGITS]
        if evidence.outcome == "match":
            headline = f"sha256 {actual}... is what {evidence.source} says"
        elif evidence.outcome == "mismatch":
            headline = f"sha256 of {name} is {actual}..., but {evidence.source} says {expected}..."
            findings = (f"expected {evidence.expected}", f"actual   {evidence.actual}")
            advice = (
                "do not load it: fetch it again from where it was published, or find who changed it",
            )
        else:
            headline = f"{name} has no checksum; make one with: {evidence.command}"
            findings = (f"actual sha256 {evidence.actual}",)
            advice = ("make the checksum where the file was made, not where it is checked",)
        check = Check(
            limit_name="sha256",
            statistic="sha256",
            outcome=Outcome.PASS if evidence.outcome == "match" else Outcome.FAIL,
            text=f"{actual[:12]}",
            limit_text=evidence.source.removeprefix("the ").partition(" ")[0] or "no checksum",
            sample=f"{evidence.bytes / 1e6:.1f} MB",
        )
        return Judgement(
            headline=headline,
            checks=(check,),
            findings=findings,
            advice=advice,
            record={
                "sha256": evidence.actual,
                "expected": evidence.expected,
                "source": evidence.source,
                "parts": len(evidence.parts),
                "bytes": evidence.bytes,
            },
        )


GATE = ChecksumGate()
