"""A checkpoint as play knows it: arrays in, arrays out, like an exported policy (cleanmelee/onnx.py)."""

from pathlib import Path

import numpy as np
import torch

from cleanmelee.observation import Observation
from melee_common import Policy, load_policy, to_torch


class TorchPolicy:
    """A Policy with what OnnxPolicy has for playing: `initial_state`, `step`, `config` and what is in it."""

    def __init__(self, policy: Policy):
        self.policy, self.config = policy, policy.config

    @property
    def action_repeat(self) -> int:
        return self.config["action_repeat"]

    @property
    def frame_delay(self) -> int:
        return self.config["frame_delay"]

    @property
    def num_floats(self) -> int:
        return self.policy.num_floats

    def play_as(self, player: str) -> None:
        """UserError unless it was told this name in training."""
        self.policy.play_as(player)

    def initial_state(self, batch: int) -> tuple[np.ndarray, ...]:
        return tuple(part.numpy() for part in self.policy.initial_state(batch))

    @torch.inference_mode()
    def step(self, obs: Observation, state: tuple, noise: np.ndarray | None) -> tuple[np.ndarray, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        state = tuple(map(torch.from_numpy, state))
        actions, state = self.decide(to_torch(obs), state, None if noise is None else torch.from_numpy(noise))
        return actions.numpy(), tuple(part.numpy() for part in state)

    def decide(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """`step` in tensors."""
        return self.policy.step(obs, state, noise)


def load_torch_policy(path: str | Path) -> TorchPolicy:
    """To play with, on one thread: small batches only wait for more. UserError says what is wrong with a file."""
    torch.set_num_threads(1)
    return TorchPolicy(load_policy(path)[0])
