"""What a policy thinks of a frame: its value of the game, and how likely it is to press what."""

import numpy as np
import torch

from cleanmelee.controller import (
    NEUTRAL_ACTION, NUM_BUTTONS, NUM_SHOULDER, NUM_STICK, STICK_GRID, encode_controllers, mirrored,
)
from cleanmelee.frame import FIRST_CONTROL_FRAME, NUM_PLAYERS
from cleanmelee.observation import Observation, observe
from cleanmelee.player import TorchPolicy
from cleanmelee.replays import Replay
from cleanmelee.web.picture import layout
from melee_common import Policy, to_torch

WHOLE = 255                                             # a probability of 1, in a byte
THOUGHT = np.dtype([
    ("value", "f4"), ("known", "u1"),                   # known 0: nobody thought
    ("buttons", "u1", NUM_BUTTONS), ("shoulder", "u1", NUM_SHOULDER),
    ("main", "u1", (NUM_STICK, NUM_STICK)), ("c", "u1", (NUM_STICK, NUM_STICK)),  # [x, y], 255 in the likeliest place
])
FACTS = {"layout": layout(THOUGHT), "size": THOUGHT.itemsize, "grid": STICK_GRID.tolist()}  # for the page
EVERY = 3                                               # of a live policy's decisions: one costs as much as deciding
CHUNK = 2048                                            # decisions at a time


@torch.inference_mode()
def think(policy: Policy, features: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
    """features [B, H], actions [B, 13] that follow from them -> THOUGHT [B], as seen by the policy (`mirrored`).

    Heads are sampled one after the other: the sticks' maps are those after the buttons that were pressed, the C-stick's
    and the shoulder's after the main stick's place."""
    head = policy.controller_head
    result = np.zeros(len(actions), THOUGHT)
    result["value"], result["known"] = policy.value(features), 1
    logits = policy.logits(features, actions)
    result["buttons"] = (logits[:, :NUM_BUTTONS].sigmoid() * WHOLE).round()
    result["shoulder"] = (logits[:, -NUM_SHOULDER:].softmax(-1) * WHOLE).round()
    seen = head.project(features) + head.seen_buttons(actions[:, :NUM_BUTTONS].to(features.dtype))
    for k, stick in enumerate(("main", "c")):
        x = head.logits[f"{stick}_x"](seen.relu()).softmax(-1)              # [B, 17]
        each = seen[:, None] + head.seen[f"{stick}_x"].weight               # [B, 17, width]: after each x
        y = head.logits[f"{stick}_y"](each.relu()).softmax(-1)              # [B, 17, 17]
        places = x[:, :, None] * y
        result[stick] = (places / places.amax((1, 2), keepdim=True) * WHOLE).round()
        for axis, column in (("x", NUM_BUTTONS + 2 * k), ("y", NUM_BUTTONS + 2 * k + 1)):
            seen = seen + head.seen[f"{stick}_{axis}"](actions[:, column].int())
    return result


def unmirror(thoughts: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """THOUGHT [...] with right where it is on the stage. mirror [...]: of whom left and right were exchanged."""
    for stick in ("main", "c"):
        thoughts[stick][mirror] = thoughts[stick][mirror][..., ::-1, :]
    return thoughts


class Thinker(TorchPolicy):
    """A policy that remembers what it thought, of every few decisions, with right where it is on the stage; it plays
    one side of a game, like any other."""

    def __init__(self, policy: Policy, side: int):
        super().__init__(policy)
        self.side, self.inference = side, None                              # inference: where it decides, once known
        self.thought, self.decisions = None, 0

    def decide(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        features, state = self.policy.features(obs, state)
        actions, _ = self.policy.controller_head.sample(features, noise)
        if self.inference is not None and self.decisions % EVERY == 0:
            mirror = self.inference.mirror[:, self.side]                    # of this decision: they may cross meanwhile
            self.thought = unmirror(think(self.policy, features, actions), mirror)[0]
        self.decisions += 1
        return actions, state


@torch.inference_mode()
def recorded_thoughts(policy: Policy, replay: Replay) -> np.ndarray:
    """What `policy` would have thought at either port -> THOUGHT [T, 2]: at t of the decision that this frame's
    controllers show. It decides as often, and sees itself act as late, as it was trained to."""
    frames, controllers = replay.frames, replay.controllers
    result = np.zeros((len(frames), NUM_PLAYERS), THOUGHT)
    first = max(int(FIRST_CONTROL_FRAME - 1 - frames["frame_id"][0]), 0)
    repeat, lag = policy.action_repeat, 1 + policy.frame_delay
    state = policy.initial_state(NUM_PLAYERS)
    for start in range(first, len(frames), CHUNK * repeat):
        t = np.arange(start, min(start + CHUNK * repeat, len(frames)), repeat)
        following = np.minimum(t[:, None] + 1 + np.arange(policy.frame_delay), len(frames) - 1)
        pending = np.moveaxis(controllers[following], 1, 2)                 # [t, 2, D] chosen, but not acted yet
        obs, mirror = to_torch(observe(frames[t], controllers[t], pending)), mirrored(frames[t])
        features, state = policy.unroll(obs, state, torch.zeros(len(t), NUM_PLAYERS, dtype=torch.bool))
        shown = np.broadcast_to(NEUTRAL_ACTION, (*mirror.shape, len(NEUTRAL_ACTION))).copy()
        inside = t + lag < len(frames)
        shown[inside] = encode_controllers(controllers[t[inside] + lag], mirror[inside])
        thoughts = think(policy, features.flatten(0, 1), torch.from_numpy(shown).flatten(0, 1)).reshape(mirror.shape)
        thoughts = unmirror(thoughts, mirror)
        for held in range(repeat):
            at = t + lag + held
            result[at[at < len(frames)]] = thoughts[at < len(frames)]
    return result
