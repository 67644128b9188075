"""Exports in eight bits: which layers of a policy bear it, and what that costs.

A policy's step is exported once, with two outputs: what it chooses, and the logits of given actions. On the same
frames, with the same noise and each with a memory of its own, the two versions of it can be compared in both."""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cleanmelee.cli import UserError
from cleanmelee.controller import ACTION_SIZE, NUM_LOGITS, decode_actions, mirrored
from cleanmelee.dataset import open_games
from cleanmelee.frame import STAGES
from cleanmelee.games import VecEnv
from cleanmelee.observation import Observation, Pending, observe
from cleanmelee.onnx import onnx_session
from cleanmelee.player import TorchPolicy
from melee_common import Policy, action_logprobs

GAMES = 4                                                                   # side by side, or replays of each kind
SCREEN = 50                                                                 # decisions by which layers are ranked


# ---------------------------------------------------------------------------------------------------------------------
# Frames to measure by
# ---------------------------------------------------------------------------------------------------------------------

class Frames(NamedTuple):
    """T decisions of B players, one after the other as they come in play."""
    obs: Observation            # arrays [T, B, ...]
    actions: np.ndarray         # [T, B, 13] int64, what was done: by the policy itself, or by the people of replays
    weights: np.ndarray         # [T, B] 0 where that does not count
    begins: np.ndarray          # [T, B] bool, frames that begin a game
    noise: np.ndarray           # [T, B, 81]

    def part(self, *index) -> "Frames":
        return Frames(Observation(*(x[index] for x in self.obs)), *(x[index] for x in self[1:]))


def game_frames(policy: Policy, steps: int, character: int, seed: int) -> tuple[Frames, Frames]:
    """`steps` decisions of the policy against itself in the embedded game -> to calibrate by, to measure by: half of
    the games each. A delay that is no whole number of decisions makes it decide on every frame here."""
    repeat = 1 if policy.frame_delay % policy.action_repeat else policy.action_repeat
    pending = Pending(2 * GAMES, policy.frame_delay, repeat)
    player, rng = TorchPolicy(policy), np.random.default_rng(seed)
    state, begins = player.initial_state(4 * GAMES), np.ones(2 * GAMES, bool)
    rows = []
    with VecEnv(2 * GAMES, character, STAGES["final_destination"], seed=seed, max_episode_frames=0,
                action_repeat=repeat) as envs:
        for _ in range(steps):
            seen = observe(envs.frames, envs.controllers, pending.frames)
            obs = Observation(*(x.reshape(4 * GAMES, -1) for x in seen))
            noise = rng.random((4 * GAMES, NUM_LOGITS), np.float32)
            fresh = begins.repeat(2)
            for part in state:
                part[fresh] = 0
            actions, state = player.step(obs, state, noise)
            rows.append((*obs, actions, fresh, noise))
            chosen = decode_actions(actions.reshape(2 * GAMES, 2, ACTION_SIZE), mirrored(envs.frames))
            terminated, truncated, _ = envs.step(pending.push(chosen))
            begins = terminated | truncated
            pending.reset(begins)
    floats, ints, actions, fresh, noise = map(np.stack, zip(*rows, strict=True))
    frames = Frames(Observation(floats, ints), actions, np.ones(fresh.shape, np.float32), fresh, noise)
    return frames.part(slice(None), slice(2 * GAMES)), frames.part(slice(None), slice(2 * GAMES, None))


def replay_frames(policy: Policy, folder: str, steps: int, seed: int) -> tuple[Frames, Frames]:
    """`steps` decisions in the middle of the longest replays of `folder`, as people made them -> to calibrate by, to
    measure by, of different games. UserError: there are not two games."""
    train, held_out, about = open_games(folder, held_out=.5, delay=policy.frame_delay)
    if not (len(train) and len(held_out)):
        raise UserError(f"--calibration-replays {folder}: {len(train) + len(held_out)} games with people in them, and "
                        f"two are needed ({about['cpu_players']} CPU players left out)")
    found = []
    for games in (train, held_out):
        sides = np.argsort(-games.rows, kind="stable")[:2 * GAMES]
        span = steps * policy.action_repeat
        rows = games.read(sides, np.maximum(games.rows[sides] - span, 0) // 2, span)
        begins = np.zeros((steps, len(sides)), bool)
        begins[0] = True
        noise = np.random.default_rng(seed).random((*begins.shape, NUM_LOGITS), np.float32)
        floats, ints, actions, weights = (
            x.numpy()[::policy.action_repeat] for x in (*rows.obs, rows.actions, rows.weights))
        found.append(Frames(Observation(floats, ints), actions.astype(np.int64), weights, begins, noise))
        if not weights.any():
            raise UserError(f"--calibration-replays {folder}: nobody decides anything in the middle of its games; give "
                            "longer ones, or other --steps")
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------------------
# Running a step over them
# ---------------------------------------------------------------------------------------------------------------------

def steps_of(session, frames: Frames, deterministic: bool = False) -> Iterator[tuple[dict, list[np.ndarray]]]:
    """(what goes in, [actions, logits, *state]) of every frame; a game's first one has no memory."""
    B = frames.begins.shape[1]
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    inputs = [i for i in session.get_inputs() if i.name.startswith("state_")]
    state = [np.zeros((B, *i.shape[1:]), kinds[i.type]) for i in inputs]
    for t, begins in enumerate(frames.begins):
        for part in state:
            part[begins] = 0
        feed = {"floats": frames.obs.floats[t], "ints": frames.obs.ints[t], "noise": frames.noise[t],
                "deterministic": np.full(B, deterministic), "taken": frames.actions[t],
                **{i.name: part for i, part in zip(inputs, state, strict=True)}}
        answer = session.run(None, feed)
        yield feed, answer
        state = answer[2:]


class Result(NamedTuple):
    actions: np.ndarray         # [T, B, 13] chosen
    loss: float                 # nats a decision, of what was done
    weights: np.ndarray | float = 1.    # [T, B] 0 where that does not count


def measure(model, frames: Frames) -> Result:
    """model: of a step with both outputs."""
    session = onnx_session(model.SerializeToString())
    answers = [(answer[0], answer[1]) for _, answer in steps_of(session, frames)]
    actions, logits = map(np.stack, zip(*answers, strict=True))
    logprobs, _ = action_logprobs(torch.from_numpy(logits), torch.from_numpy(frames.actions))       # [T, B, 6]
    weights = frames.weights
    return Result(actions, float(-(logprobs.sum(-1).numpy() * weights).sum() / max(weights.sum(), 1)), weights)


def agreement(a: Result, b: Result) -> float:
    """Share of decisions on which all 13 numbers are the same."""
    same = (a.actions == b.actions).all(-1)
    return float(np.average(same, weights=np.broadcast_to(a.weights, same.shape)))


# ---------------------------------------------------------------------------------------------------------------------
# Eight bits
# ---------------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def quiet():
    """The exporter and the quantiser report a page of their own affairs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def layers(model) -> dict[str, list[str]]:
    """Weights that are multiplied with -> the nodes that do it, in the order of the step."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in weights:
            found.setdefault(node.input[1], []).append(node.name)
    return found


def turned(model):
    """-> a copy in which the weights of Gemm lie as they are multiplied. The dynamic quantiser would turn a weight that
    several nodes share around for each of them."""
    from onnx import numpy_helper
    model = copy.deepcopy(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    done = set()
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Gemm" and attribute.name == "transB" and attribute.i and node.input[1] in weights:
                attribute.i, name = 0, node.input[1]
                if name not in done:
                    done.add(name)
                    straight = np.ascontiguousarray(numpy_helper.to_array(weights[name]).T)
                    weights[name].CopyFrom(numpy_helper.from_array(straight, name))
    return model


class Quantiser:
    """Makes versions of one step in which some layers multiply eight-bit numbers: weights of one scale for each output,
    of 7 bits, as processors without VNNI add pairs of products in 16. static: activations have scales, too, from
    `frames`, and lie between QuantizeLinear and DequantizeLinear. dynamic: they get theirs as they come, one for the
    whole batch, so a row's result depends a little on its neighbours."""

    def __init__(self, model, mode: str, frames: Frames):
        self.model, self.mode, self.frames = turned(model), mode, frames
        self.layers = layers(model)
        self.folder = tempfile.TemporaryDirectory()

    def __call__(self, names: list[str]):
        """-> onnx.ModelProto with the layers of these weights in eight bits."""
        import onnx
        from onnxruntime import quantization as q
        nodes = [node for name in names for node in self.layers[name]]
        if not nodes:
            return self.model
        path = Path(self.folder.name) / "model.onnx"
        common = {"nodes_to_quantize": nodes, "per_channel": True, "reduce_range": True,
                  "weight_type": q.QuantType.QInt8, "op_types_to_quantize": ["Gemm", "MatMul"]}
        with quiet():
            if self.mode == "dynamic":                                      # makes MatMuls of Gemms, by other names
                common["nodes_to_quantize"] = nodes + [f"{node}_MatMul" for node in nodes]
                q.quantize_dynamic(copy.deepcopy(self.model), path, **common)
            else:
                ranges = Path(self.folder.name) / "ranges.json"             # measured once, for all versions
                q.quantize_static(
                    copy.deepcopy(self.model), path, None if ranges.exists() else self._reader(), **common,
                    activation_type=q.QuantType.QUInt8, calibration_cache_path=ranges, extra_options={
                        "MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]})
            return onnx.load(path)

    def _reader(self):
        from onnxruntime.quantization import CalibrationDataReader
        steps = steps_of(onnx_session(self.model.SerializeToString()), self.frames)
        counts = self.frames.weights > 0                                    # [T, B] not what stands past a game's end
        feeds = ({name: part[rows] for name, part in feed.items()}
                 for (feed, _), rows in zip(steps, counts, strict=True) if rows.any())

        class Reader(CalibrationDataReader):
            def get_next(self):
                return next(feeds, None)

        return Reader()


def choose_layers(quantiser: Quantiser, frames: Frames, min_agreement: float, max_loss: float) -> list[str]:
    """The weights that can be had in eight bits: all, or all but those whose own loss of accuracy is largest, so few
    that on `frames` at least `min_agreement` of the decisions stay the same and the loss grows by no more than the
    share `max_loss`."""
    exact = measure(quantiser.model, frames)

    def bears(names: list[str]) -> bool:
        found = measure(quantiser(names), frames)
        return agreement(found, exact) >= min_agreement and found.loss - exact.loss <= max_loss * abs(exact.loss)

    names = list(quantiser.layers)
    if bears(names):
        return names
    few = frames.part(slice(SCREEN))
    exact_few = measure(quantiser.model, few)
    alone = {}
    for name in names:
        found = measure(quantiser([name]), few)
        alone[name] = (agreement(found, exact_few), -abs(found.loss - exact_few.loss))
    names.sort(key=alone.get, reverse=True)                                 # what costs least comes first
    good, bad = 0, len(names)                                               # how many from there on
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if bears(names[:middle]) else (good, middle)
    return names[:good]
