"""A few broken files of each kind, used as a person would; tests/tools/attack.py does it by the thousand."""

import pytest
import torch._dynamo  # noqa: F401 - an optimiser imports it, and no case should have to do so again

from attack import attack
from cleanmelee import game


@pytest.mark.parametrize("what, count", [("replays", 20), ("checkpoints", 6), ("folders", 6)])
def test_broken_files_end_in_a_result_or_in_a_line(what, count):
    game.warm_up()                                                          # cases are forks of this process
    assert attack(what, range(count), seed=1).failures == []


@pytest.mark.slow
@pytest.mark.parametrize("what, count", [("replays", 300), ("checkpoints", 120), ("onnx", 120), ("folders", 120),
                                         ("kills", 10)])
def test_many_broken_files(what, count):
    assert attack(what, range(count), seed=2).failures == []
