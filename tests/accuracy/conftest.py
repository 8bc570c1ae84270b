"""Fixtures for tests of accuracy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgevit
from edgevit.artifact import Artifact
from edgevit.device.session import Session
from edgevit.model import Model
from tests.accuracy.tiny_models import classifier_proto, detector_proto, saved, segmenter_proto
from tests.conftest import missing


def _shared_data(name: str, what: str) -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EDGEVIT_DATA", beside)) / name
    if not folder.is_dir():
        missing(f"the {what} are not beside this checkout, nor where EDGEVIT_DATA points")
    return folder


@pytest.fixture(scope="session")
def flowers() -> Path:
    """Photographs of five flowers: a folder for each, named daisy, dandelion, roses, sunflowers and tulips."""
    return _shared_data("flowers/val", "photographs of flowers")


@pytest.fixture(scope="session")
def coco128() -> Path:
    """128 photographs of COCO: images, instances.json, and masks of most of them."""
    return _shared_data("coco128", "photographs of COCO")


@pytest.fixture(scope="module")
def in_process() -> Iterator[Session]:
    """A session without a process of its own."""
    with edgevit.connect(in_process=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Model]:
    """Tells the colour of a picture."""
    return saved(classifier_proto(), "classification", tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Model]:
    """Finds coloured squares."""
    return saved(detector_proto(), "detection", tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Model]:
    """Tells the colour of every cell."""
    return saved(segmenter_proto(), "segmentation", tmp_path_factory.mktemp("segmenter"))
