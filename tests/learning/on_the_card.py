"""Learning on a card, acting on the processor or there too: the same numbers wherever they are computed. The card of
these tests (tests/card.py) fails where a real one does, but rounds like the processor.

test_device.py runs them in a process of their own: one that has learnt on a card has threads, and what it forks cannot
learn any more, which other tests do."""

import copy
import math

import pytest
import torch

import card  # noqa: F401 (there is a device "card" now)
import melee_common
import ppo_selfplay
from helpers import FRAMES, metrics, tiny
from melee_common import load_checkpoint
from ppo_selfplay import Args, main


def on_the_card(patched):
    patched.setattr(ppo_selfplay, "choose_device", lambda name: torch.device("card"))


def assert_alike(run, other):
    """To rounding: what is computed is the same, what numpy adds up in another order is not."""
    for row, its in zip(metrics(run), metrics(other), strict=True):
        assert row.keys() == its.keys()
        for key, value in row.items():
            assert value == its[key] or math.isclose(value, its[key], rel_tol=1e-4, abs_tol=3e-6), key


def test_the_card_of_these_tests():
    """Mixed devices fail, and what is computed there is right."""
    layer, x = torch.nn.Linear(3, 4), torch.randn(2, 3)
    there = copy.deepcopy(layer).to("card")
    with pytest.raises(RuntimeError, match="same device"):
        there(x)
    with pytest.raises((RuntimeError, TypeError)):
        there(x.to("card")).detach().numpy()
    there(x.to("card")).sum().backward()
    layer(x).sum().backward()
    assert torch.equal(there.weight.grad.cpu(), layer.weight.grad)


@pytest.mark.parametrize("options", [
    {"hidden": "16"},
    {"hidden": "16", "target_kl": .1, "grad_accum": 2, "target_entropy": "6:5", "ppo_epochs": 2},
    {"hidden": "16", "backbone": "transformer", "frame_delay": 2},
    {"hidden": "16", "async_learning": True, "vtrace": True},
    {"hidden": "16", "population_size": 2, "parallel_training": True, "matchmaking": "population"},
], ids=["plain", "target_kl", "transformer", "async", "population"])
@pytest.mark.parametrize("acts", ["on the processor", "on the card"])
def test_learning_on_a_card(tmp_path, monkeypatch, options, acts):
    if acts == "on the card":                                               # as many games as that pays for
        monkeypatch.setattr(ppo_selfplay, "FEW_ROWS", 0)
        monkeypatch.setattr(melee_common, "FEW_ROWS", 0)                    # inference tensors are none of this card's
        monkeypatch.setattr(ppo_selfplay, "collect", torch.no_grad()(ppo_selfplay.collect.__wrapped__))
    main(tiny(tmp_path, "cpu", 4, **options))
    on_the_card(monkeypatch)
    main(tiny(tmp_path, "card", 4, **options))
    assert_alike(tmp_path / "cpu", tmp_path / "card")
    weights = [load_checkpoint(tmp_path / name)["policy"] for name in ("cpu", "card")]
    for name, parameter in weights[0].items():
        assert torch.allclose(parameter, weights[1][name], atol=1e-4), name
        assert weights[1][name].device.type == "cpu"                        # whoever reads it needs no card


def test_a_pretrained_network_and_its_teacher(tmp_path, monkeypatch):
    main(tiny(tmp_path, "before"))
    options = {"pretrained": str(tmp_path / "before"), "value_burn_in": 1, "teacher_kl": .1}
    main(tiny(tmp_path, "cpu", **options))
    on_the_card(monkeypatch)
    main(tiny(tmp_path, "card", **options))
    assert_alike(tmp_path / "cpu", tmp_path / "card")


def test_a_run_goes_on_from_one_device_to_another(tmp_path, monkeypatch):
    main(tiny(tmp_path, "whole", 4))
    with monkeypatch.context() as patched:
        on_the_card(patched)
        main(tiny(tmp_path, "moves", 2))
    main(Args(resume=str(tmp_path / "moves"), timesteps=4 * FRAMES, device="cpu"))
    assert_alike(tmp_path / "whole", tmp_path / "moves")
    main(tiny(tmp_path, "returns", 2))
    on_the_card(monkeypatch)
    main(Args(resume=str(tmp_path / "returns"), timesteps=4 * FRAMES))
    assert_alike(tmp_path / "whole", tmp_path / "returns")


def test_what_acts_is_what_learns(tmp_path, monkeypatch):
    """A copy that is not brought up to date would act with old weights: the first ratio tells."""
    on_the_card(monkeypatch)
    monkeypatch.setattr("cleanmelee.population.Learner.publish", lambda self: setattr(
        self, "acting", getattr(self, "acting", None) or self.copy()))
    with pytest.raises(RuntimeError, match="not the one that acted"):
        main(tiny(tmp_path, "run", 8, learning_rate=.05))
