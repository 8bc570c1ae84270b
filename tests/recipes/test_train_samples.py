"""Augmentation, anchors and the figures a training is followed by; none of it needs PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data import scene
from edgevit.errors import UserError
from edgevit.zoo.ssd import anchor_boxes, detection
from recipes.train.augment import Augmentation, Sample, augment, crop, flip, jitter
from recipes.train.data import Photographs, Scenes
from recipes.train.monitor import Found, average_precision, mean_iou, objects
from recipes.train.ssd import corners, decode, match, overlaps

ROOT = Path(__file__).resolve().parents[2]
SIZE = (160, 160)
PRIORS = anchor_boxes(detection(SIZE).anchors)


def marked() -> Sample:
    """A white rectangle of 20 x 10 pixels on black, known by box and mask."""
    mask = np.zeros((80, 100), np.uint8)
    mask[30:40, 50:70] = 3
    image = np.repeat((mask > 0)[..., None] * np.uint8(255), 3, -1)
    return Sample(image, 2, np.array([[50, 30, 70, 40]], np.float32), np.array([2]), mask)


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_crop_and_flip_move_boxes_and_masks_with_the_image() -> None:
    part = crop(marked(), (40, 20, 80, 60), 80)
    assert part.image.shape == (80, 80, 3)
    assert part.boxes is not None
    assert part.mask is not None
    np.testing.assert_array_equal(part.boxes, [[20, 20, 60, 40]])
    assert box_of(part.mask) == [20, 20, 60, 40]
    assert box_of(part.image[..., 0] > 127) == [20, 20, 60, 40]
    other = flip(part)
    assert other.boxes is not None
    np.testing.assert_array_equal(other.boxes, [[20, 20, 60, 40]])
    other = flip(marked())
    assert other.boxes is not None
    assert other.mask is not None
    np.testing.assert_array_equal(other.boxes, [[30, 30, 50, 40]])
    assert box_of(other.mask) == box_of(other.image[..., 0]) == [30, 30, 50, 40]


def test_a_box_stays_if_its_centre_does_and_is_cut_at_the_border() -> None:
    cut = crop(marked(), (55, 0, 95, 40), 40)
    assert cut.boxes is not None
    np.testing.assert_array_equal(cut.boxes, [[0, 30, 15, 40]])
    gone = crop(marked(), (61, 0, 99, 38), 38)
    assert gone.boxes is not None
    assert gone.classes is not None
    assert gone.boxes.shape == (0, 4)
    assert len(gone.classes) == 0


def test_augmentation_repeats_and_varies() -> None:
    drawn = scene("det", "train", 0, size=96)
    sample = Sample(drawn.image, drawn.label, drawn.boxes, drawn.classes, drawn.mask)
    views = [augment(sample, 64, Augmentation(), np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(views[0].image, views[1].image)
    assert not np.array_equal(views[1].image, views[2].image)
    for view in views:
        assert view.image.shape == (64, 64, 3)
        assert view.image.dtype == np.uint8
        assert view.mask is not None
        assert view.boxes is not None
        assert view.mask.shape == (64, 64)
        assert np.all((view.boxes >= 0) & (view.boxes <= 64))


def test_without_variation_a_sample_stays_as_it_is() -> None:
    sample = marked()
    still = augment(sample, 80, Augmentation(1, 1, flip=False, jitter=0), np.random.default_rng(0))
    expected = Image.fromarray(sample.image).resize((80, 80), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(still.image, np.asarray(expected))


def test_jitter_leaves_grey_images_grey() -> None:
    grey = np.repeat(np.arange(240, dtype=np.uint8).reshape(12, 20, 1), 3, -1)
    changed = jitter(grey, 0.4, np.random.default_rng(3)).astype(int)
    assert np.ptp(changed, axis=-1).max() <= 1
    assert not np.array_equal(changed, grey)


def test_photographs_are_found_by_class(tmp_path: Path) -> None:
    for index, name in enumerate(("b", "a")):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 6), 10 * index).save(tmp_path / name / "one.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    found = Photographs(tmp_path)
    assert found.labels == ("a", "b")
    assert [found.sample(index, 0, 32).label for index in range(len(found))] == [0, 1]
    assert found.sample(0, 0, 32).image.shape == (6, 8, 3)
    with pytest.raises(UserError, match="no photographs"):
        Photographs(tmp_path / "c")


def test_every_epoch_has_scenes_of_its_own_and_checks_have_not() -> None:
    train, checked = Scenes("det", "train", 10), Scenes("det", "val", 10)
    first, again, other = (train.sample(3, epoch, 64) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(Image.fromarray(first.image).resize(SIZE), Image.fromarray(other.image).resize(SIZE))
    assert 64 < first.image.shape[0] < 110
    np.testing.assert_array_equal(checked.sample(3, 0, 64).image, checked.sample(3, 5, 96).image)


def test_matched_anchors_decode_to_their_objects() -> None:
    for index in range(20):
        drawn = scene("det", "val", index, size=160)
        boxes = drawn.boxes / 160
        targets, labels = match(boxes, drawn.classes, PRIORS, detection(SIZE))
        positive = labels > 0
        decoded = decode(targets[positive], PRIORS[positive], detection(SIZE))
        shared = overlaps(decoded, boxes.astype(np.float64))
        np.testing.assert_allclose(shared.max(1), 1, atol=1e-4)
        owner = shared.argmax(1)
        np.testing.assert_array_equal(labels[positive], drawn.classes[owner] + 1)
        assert set(owner) == set(range(len(boxes)))
        assert not targets[~positive].any()


def test_anchors_that_overlap_by_half_stand_for_an_object() -> None:
    box = np.array([[0.30, 0.30, 0.62, 0.58]])
    _, labels = match(box, np.array([4]), PRIORS, detection(SIZE))
    shared = overlaps(corners(PRIORS), box)[:, 0]
    np.testing.assert_array_equal(labels == 5, shared >= 0.5)
    _, labels = match(np.zeros((0, 4)), np.zeros(0, np.int64), PRIORS, detection(SIZE))
    assert not labels.any()


def test_overlap_of_known_boxes() -> None:
    a = np.array([[0.0, 0, 2, 2]])
    b = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 3, 1], [0, 0, 2, 1]])
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 1, 0, 0.5]])


def test_weaker_copies_of_an_object_are_suppressed_within_a_class() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.01, 0, 0.51, 0.5], [0.5, 0.5, 1, 1]])
    scores = np.array([[0.1, 0.9, 0.0], [0.1, 0.6, 0.3], [0.2, 0.7, 0.01]])
    found = objects(boxes, scores)
    assert list(zip(found.classes.tolist(), found.scores.tolist(), strict=True)) == [(0, 0.9), (0, 0.7), (1, 0.3)]


def test_average_precision_of_a_worked_example() -> None:
    """Hit, miss, hit of three objects: precision 1 up to a third of the recall, 2/3 up to two thirds."""
    truth = (np.array([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5.0]]), np.zeros(3, np.int64))
    boxes = np.array([[0, 0, 1, 1], [7, 7, 8, 8], [2, 2, 3, 3], [0, 0, 1, 1.0]])
    found = Found(boxes, np.zeros(4, np.int64), np.array([0.9, 0.8, 0.7, 0.6]))
    assert average_precision([found], [truth]) == pytest.approx(100 * (1 + 2 / 3) / 3)
    perfect = Found(truth[0], truth[1], np.ones(3))
    assert average_precision([perfect], [truth]) == 100
    nothing = Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    assert average_precision([nothing], [truth]) == 0


def test_mean_iou_of_a_worked_example() -> None:
    confusion = np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx(100 * (8 / 11 + 4 / 7) / 2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--list"], 0, "scenes-cls"),
        (["roses"], 2, "roses"),
        (["flowers"], 3, "torch"),
    ],
)
def test_the_command_explains_itself_without_pytorch(arguments: list[str], code: int, said: str) -> None:
    without = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('recipes.train', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", without, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == code
    assert said in (done.stdout if code == 0 else done.stderr)
    assert "Traceback" not in done.stderr
