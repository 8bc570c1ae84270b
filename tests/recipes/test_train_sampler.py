"""The multi-scale sampler and the learning rate: what the paper says of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from recipes.train.plans import PLANS
from recipes.train.sampler import PAPER_RESOLUTIONS, MultiScaleSampler
from recipes.train.schedule import learning_rate

IMAGENET = 1_281_167
EPOCHS = 300


@pytest.mark.parametrize(("resolution", "images"), [(320, 128), (288, 158), (256, 200), (192, 355), (160, 512)])
def test_a_batch_has_as_many_pixels_as_the_largest_resolutions(resolution: int, images: int) -> None:
    """The paper's rule: H_n * W_n * b / (H_t * W_t), rounded down."""
    sampler = MultiScaleSampler(PAPER_RESOLUTIONS, 128)
    assert sampler.batch_size(resolution) == images == 320 * 320 * 128 // resolution**2


def test_no_batch_is_empty() -> None:
    assert MultiScaleSampler((32, 320), 1).batch_size(320) == 1


@pytest.mark.parametrize("even", ["batches", "images"])
def test_an_epoch_sees_every_image_once_at_some_resolution(even: str) -> None:
    sampler = MultiScaleSampler((96, 128, 160), 24, even)  # type: ignore[arg-type]
    batches = sampler.epoch(1000, seed=1, epoch=2)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(1000))
    assert {batch.resolution for batch in batches} == {96, 128, 160}
    assert all(len(batch.indices) == sampler.batch_size(batch.resolution) for batch in batches[:-1])
    assert 0 < len(batches[-1].indices) <= sampler.batch_size(batches[-1].resolution)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    sampler = MultiScaleSampler((96, 128, 160), 8)
    assert sampler.epoch(300, seed=1, epoch=2) == sampler.epoch(300, seed=1, epoch=2)
    assert sampler.epoch(300, seed=1, epoch=2) != sampler.epoch(300, seed=1, epoch=3)
    assert sampler.epoch(300, seed=1, epoch=2) != sampler.epoch(300, seed=2, epoch=2)


def test_resolutions_share_batches_or_images_evenly() -> None:
    images = 200_000
    for even in ("batches", "images"):
        shares: Counter[int] = Counter()
        for batch in MultiScaleSampler((96, 128, 160), 8, even).epoch(images, seed=0, epoch=0):  # type: ignore[arg-type]
            shares[batch.resolution] += 1 if even == "batches" else len(batch.indices)
        thirds = np.array(list(shares.values())) / shares.total()
        np.testing.assert_allclose(thirds, 1 / 3, atol=0.02)


def test_imagenet_takes_375_thousand_updates_at_one_resolution() -> None:
    assert MultiScaleSampler((256,), 1024).updates(IMAGENET, EPOCHS) == pytest.approx(375_000, rel=0.01)


def test_several_resolutions_take_as_many_updates_fewer_as_the_paper_says() -> None:
    """The paper counts 232 thousand. That is what its rule gives where each resolution sees as many images; where each
    batch draws its resolution evenly, the many images of small ones make still fewer updates."""
    shared = {
        even: MultiScaleSampler(PAPER_RESOLUTIONS, 1024, even).updates(IMAGENET, EPOCHS)  # type: ignore[arg-type]
        for even in ("images", "batches")
    }
    assert shared["images"] == pytest.approx(232_000, rel=0.015)
    assert shared["batches"] == pytest.approx(177_500, rel=0.001)


@pytest.mark.parametrize("even", ["batches", "images"])
def test_expected_updates_are_those_of_epochs(even: str) -> None:
    sampler = MultiScaleSampler((96, 128, 160), 24, even)  # type: ignore[arg-type]
    counted = sum(len(sampler.epoch(5000, seed=0, epoch=epoch)) for epoch in range(20))
    # The last batch of an epoch may be smaller than its resolution's.
    assert counted == pytest.approx(sampler.updates(5000, 20), rel=0.03)


def test_the_rate_rises_to_its_peak_and_falls_to_the_floor() -> None:
    def rate(progress: float) -> float:
        return learning_rate(progress, peak=2.0, warm_up=0.1, floor=0.01)

    rates = [rate(progress) for progress in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.02)
    assert rate(0.05) == pytest.approx((0.02 + 2.0) / 2)
    assert rate(0.55) == pytest.approx((0.02 + 2.0) / 2)
    assert np.all(np.diff(rates[:11]) > 0)
    assert np.all(np.diff(rates[10:]) < 0)


def test_plans_train_at_the_size_they_are_checked_at() -> None:
    for plan in PLANS.values():
        assert plan.image_size in plan.sampler.resolutions
        assert plan.backbone is None or PLANS[plan.backbone].task == "cls"
