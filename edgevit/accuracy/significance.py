"""Is a difference between two classifiers on the same images more than chance?"""

from __future__ import annotations

from edgevit.accuracy.metric import Result


class McNemar(Result):
    """McNemar's exact test on images that one of the two gets right and the other does not.

    Images that both get right, or both wrong, say nothing of the difference. If the two were equally good, each of the
    others would be either's with probability one half: the two-sided p-value is that of a binomial test (McNemar,
    Psychometrika 12, 1947, in its exact form).

    Attributes:
        reference_only: images that only the reference gets right.
        artifact_only: images that only the artifact gets right.
        p_value: of a difference as large as this, or larger, by chance; 1 where the two never differ.
    """

    reference_only: int
    artifact_only: int
    p_value: float

    @classmethod
    def test(cls, reference_only: int, artifact_only: int) -> McNemar:
        """The test on these counts."""
        from scipy.stats import binomtest

        discordant = reference_only + artifact_only
        p_value = float(binomtest(reference_only, discordant, 0.5).pvalue) if discordant else 1.0
        return cls(reference_only=reference_only, artifact_only=artifact_only, p_value=p_value)
