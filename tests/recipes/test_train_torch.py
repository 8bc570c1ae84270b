"""Training itself: updates help, a stopped training goes on the same, and the zoo computes what was trained."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.data import CLASSES
from edgevit.errors import ModelError, UserError
from recipes.train.augment import Augmentation
from recipes.train.data import Scenes, sources
from recipes.train.plans import PLANS, Plan
from recipes.train.sampler import MultiScaleSampler

TASKS = ("cls", "det", "seg")
TINY = Plan(
    "tiny",
    data="scenes",
    task="cls",
    image_size=64,
    sampler=MultiScaleSampler((32, 64), 4),
    epochs=4,
    rate=1e-3,
    augmentation=Augmentation(area=0.7, jitter=0.2),
    images=24,
    checks=6,
    warm_up=0.0,
)


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    try:
        import torch
    except ImportError as error:
        reason = f"needs PyTorch, of the extra 'train' ({error})"
        if os.environ.get("EDGEVIT_REQUIRE_TORCH"):
            pytest.fail(reason)
        pytest.skip(reason)
    torch.set_num_threads(1)


def trainer(plan: Plan, folder: Path, **options: Any) -> Any:
    from recipes.train.trainer import Trainer

    return Trainer(plan, *sources(plan, None), folder / "tiny.checkpoint", say=lambda _: None, **options)


def randomized(task: str, classes: int) -> dict[str, Any]:
    """Every parameter and statistic of a network drawn by lot, so that none could be left out unnoticed."""
    import torch

    from recipes.train.network import build_network

    draws = torch.Generator().manual_seed(5)
    state = build_network(task, classes).state_dict()
    for name, tensor in state.items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=draws)
        elif tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("norm.weight", "running_var", "0.weight")) else (-0.3, 0.3)
            tensor.uniform_(low, high, generator=draws)
    return state


@pytest.mark.parametrize("task", TASKS)
def test_updates_lower_the_loss_of_a_batch(task: str, tmp_path: Path) -> None:
    training = trainer(replace(TINY, task=task, augmentation=Augmentation(1, 1, flip=False, jitter=0)), tmp_path)
    losses = [training.update(64, range(8), 0.0) for _ in range(6)]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("first", [1, 4, 5, 6])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(first: int, tmp_path: Path) -> None:
    import torch

    whole = trainer(TINY, tmp_path / "whole")
    updates = 7
    assert whole.run(most=updates) is False
    assert whole.epoch >= 1
    begun = trainer(TINY, tmp_path / "parts")
    begun.run(most=first)
    resumed = trainer(TINY, tmp_path / "parts")
    assert resumed.updates == first
    resumed.run(most=updates - first)
    for name in ("epoch", "step", "updates", "seen", "loss", "history"):
        assert getattr(resumed, name) == getattr(whole, name)
    for ours, theirs in ((resumed.network.state_dict(), whole.network.state_dict()), (resumed.average, whole.average)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (t.optimizer.state_dict()["state"] for t in (resumed, whole))
    assert all(torch.equal(ours[k][name], theirs[k][name]) for k in ours for name in ("exp_avg", "exp_avg_sq", "step"))


def test_pixels_help_a_classifier_only_in_training(tmp_path: Path) -> None:
    import torch

    training = trainer(replace(TINY, dense=1.0), tmp_path)
    losses = [training.update(64, range(8), 0.0) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    # At first thirteen classes are equally likely: the pixels add log 13.
    labels_alone = trainer(TINY, tmp_path / "labels").update(64, range(8), 0.0)
    assert losses[0] - labels_alone == pytest.approx(np.log(13), abs=0.3)
    image = torch.rand(1, 3, 64, 64)
    logits, cells = training.network(image)
    assert logits.shape == (1, len(CLASSES))
    assert cells.shape == (1, 1 + len(CLASSES), 4, 4)
    assert training.network.eval()(image).shape == (1, len(CLASSES))


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    trainer(TINY, tmp_path).run(most=1)
    with pytest.raises(UserError, match="rate"):
        trainer(replace(TINY, rate=1e-4), tmp_path)


def test_averaged_weights_follow_the_trained_ones(tmp_path: Path) -> None:
    import torch

    training = trainer(TINY, tmp_path)
    start = training.average["conv_1.block.conv.weight"].clone()
    training.run(most=1)
    now = training.network.state_dict()["conv_1.block.conv.weight"]
    kept = 2 / 11
    torch.testing.assert_close(training.average["conv_1.block.conv.weight"], kept * start + (1 - kept) * now)


@pytest.mark.parametrize("size", [(64, 64), (160, 160), (96, 96)])
@pytest.mark.parametrize("task", TASKS)
def test_the_zoo_computes_what_the_network_does(task: str, size: tuple[int, int], tmp_path: Path) -> None:
    """At 160 and 96 pixels the last map is no multiple of a patch."""
    from recipes.train.shipping import TOLERANCE, difference, write_weights

    labels = tuple(CLASSES) if task == "cls" else ("background", *CLASSES)
    file = tmp_path / "random.safetensors"
    write_weights(file, randomized(task, len(labels)), {})
    assert difference(file, task, labels, size[0]) <= TOLERANCE
    assert file.stat().st_size < 4e6


def test_another_seed_makes_another_network() -> None:
    import torch

    from recipes.train.network import build_network

    one, same, other = (build_network("cls", 5, seed=seed).state_dict()["classifier.fc.weight"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("task", ["det", "seg"])
def test_a_backbone_is_inherited(task: str, tmp_path: Path) -> None:
    import torch

    from recipes.train.network import build_network, inherit

    trained = randomized("cls", 5)
    network = build_network(task, 13)
    taken = inherit(network, trained)
    assert taken == len(network.get_submodule("encoder").state_dict()) > 200
    name = "layer_5.1.global_rep.3.weight"
    assert torch.equal(network.state_dict()[f"encoder.{name}"], trained[name])


def test_numbers_beyond_float16_are_refused() -> None:
    import torch

    from recipes.train.shipping import compact

    assert compact({"a": torch.full((2,), 1e5)})["a"].dtype == np.float32
    with pytest.raises(ModelError, match="float16"):
        compact({"kernel": torch.full((2, 2), 1e5)})


def test_mining_takes_the_hardest_background() -> None:
    """One object and four anchors of background that are mistaken more and more: the three worst count."""
    import torch
    from torch.nn import functional

    from recipes.train.objectives import multibox_loss

    logits = torch.tensor([[0.0, 2], [0, -3], [0, 1], [0, 3], [0, 2]])
    output = torch.cat([torch.zeros(5, 4), logits], 1)[None]
    output[0, 0, 0] = 0.5
    boxes, labels = np.zeros((5, 4), np.float32), np.array([1, 0, 0, 0, 0])
    entropy = functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
    expected = entropy[[0, 2, 3, 4]].sum() + 0.5 * 0.5**2
    torch.testing.assert_close(multibox_loss(output, [(boxes, labels)]), expected)
    nothing = multibox_loss(output, [(boxes, np.zeros(5, np.int64))])
    assert nothing == 0


def test_the_command_trains_and_writes_weights_and_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgevit.zoo import build
    from recipes.train.__main__ import main

    plans = {name: replace(TINY, name=name, task=name, epochs=1) for name in TASKS}
    plans["cls"] = replace(plans["cls"], dense=1.0)
    plans["det"] = replace(plans["det"], backbone="cls")
    for name, plan in plans.items():
        monkeypatch.setitem(PLANS, name, plan)
    assert main(["det", "-o", str(tmp_path)]) == 2
    assert "cls" in capsys.readouterr().err
    assert main(["cls", "--stop", "-o", str(tmp_path)]) == 2
    assert "not trained" in capsys.readouterr().err
    for name in TASKS:
        assert main([name, "-o", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{name} epoch 1/1 loss ")
        assert lines[-1] == str(tmp_path / f"{name}.safetensors")
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts["seed"] == 0
        assert facts["done_epochs"] == 1
        assert facts["images_seen"] == len(Scenes("cls", "train", 24))
        assert facts["checked_images"] == 6
        model = build(
            "mobilevit-xxs", task=name, image_size=64, weights=tmp_path / f"{name}.safetensors", labels=facts["labels"]
        )
        assert model.graph.name.startswith("mobilevit_xxs")
    # What is done is not done again.
    assert main(["cls", "-o", str(tmp_path)]) == 0
    assert "epoch" not in capsys.readouterr().out


def test_an_epoch_ends_without_a_batch_of_one_image(tmp_path: Path) -> None:
    """Behind DeepLabv3's pooling a batch norm would have one value of each channel."""
    plan = replace(TINY, task="seg", sampler=MultiScaleSampler((64,), 4), images=9, epochs=1)
    training = trainer(plan, tmp_path)
    assert training.run()
    assert (training.updates, training.seen) == (2, 8)


def test_anchors_have_as_many_pixels_at_every_resolution() -> None:
    """What a convolution sees of an object then means the same box, however large the image is."""
    from edgevit.zoo.ssd import anchor_boxes, detection
    from recipes.train.objectives import _priors

    at_home = _priors(192, 192)
    np.testing.assert_array_equal(at_home, anchor_boxes(detection((192, 192)).anchors))
    small = _priors(128, 192)
    assert len(small) < len(at_home)
    assert {tuple(pixels) for pixels in (small[:, 2:] * 128).round(6)} == {
        tuple(pixels) for pixels in (at_home[:, 2:] * 192).round(6)
    }
