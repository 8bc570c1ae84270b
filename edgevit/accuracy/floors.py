"""How much of the reference's score an artifact must keep."""

from __future__ import annotations

from edgevit.accuracy.metric import Result, Score

FLOORS = {"classification": 0.98, "detection": 0.95, "segmentation": 0.96}
"""Share of the reference's score that counts as kept, by task: what MLPerf Mobile asks of reduced precision."""


class Verdict(Result):
    """Whether an artifact is accurate enough.

    Attributes:
        score: of both.
        floor: share of the reference's score that the artifact must reach.
        least: score that it must reach besides; None for any.
        failures: what is not reached, a sentence each without the full stop; none is a pass.
    """

    score: Score
    floor: float
    least: float | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is reached."""
        return not self.failures

    @classmethod
    def judge(cls, score: Score, *, floor: float, least: float | None = None) -> Verdict:
        """Hold a score against floor and least value."""
        failures = []
        if score.artifact < floor * score.reference:
            kept = score.artifact / score.reference
            failures.append(
                f"{score.name} is {score.artifact:.4f}, {kept:.1%} of the reference's {score.reference:.4f}, under the "
                f"floor of {floor:.1%}"
            )
        if least is not None and score.artifact < least:
            failures.append(f"{score.name} is {score.artifact:.4f}, under the floor of {least:g}")
        return cls(score=score, floor=floor, least=least, failures=tuple(failures))
