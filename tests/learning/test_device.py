"""--device: what it refuses, and the tests on a card that is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ppo_selfplay
from cleanmelee.cli import UserError
from helpers import tiny
from ppo_selfplay import main


def test_on_the_card(tmp_path):
    tests = Path(__file__).with_name("on_the_card.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'card'}", str(tests)],
        capture_output=True, text=True)
    assert done.returncode == 0 and "14 passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]


def test_a_card_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="^--device cuda: no CUDA device"):
        main(tiny(tmp_path, "run", device="cuda"))
    assert not (tmp_path / "run").exists()


def test_memory_that_does_not_suffice_says_what_would(tmp_path, monkeypatch):
    def full(*rest):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ppo_selfplay, "update", full)
    with pytest.raises(UserError, match="^--batch-size 64 in 1 parts does not fit into memory: --grad-accum 2 learns"):
        main(tiny(tmp_path, "run"))
