"""Fixtures of tests that need PyTorch and Hugging Face transformers."""

from __future__ import annotations

import os

import pytest

REQUIRED = bool(os.environ.get("EDGEVIT_REQUIRE_TORCH"))
"""Set where both are installed: then their absence is a failure, not a skip."""


@pytest.fixture(scope="session", autouse=True)
def _torch_and_transformers() -> None:
    try:
        import torch
        import transformers
    except ImportError as error:
        reason = f"needs PyTorch and transformers, of the extra 'reference' ({error})"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
