"""A checkpoint becomes one ONNX file that plays without torch: one recurrent step, state in and state out.

    python export_onnx.py --checkpoint policy.pt --output policy.onnx                    # float32, 8 s
    python export_onnx.py --checkpoint policy.pt --output policy.onnx --int8 dynamic     # weights in eight bits

    inputs    floats [B, F] float32, ints [B, I] int16     one row of `observe` for each player; the floats end with
                                                           the queue of what it chose and what has not acted yet
              noise [B, 81] float32                        uniform in (0, 1), one number for each logit
              state_0 [B, H] ...                           zeros at a game's start (the mlp has none)
    outputs   actions [B, 13] int64                        for `decode_actions`
              next_state_0 [B, H] ...                      the next frame's state

The file draws no random numbers: sampling is a function of `noise`, the same in torch and here. Noise .5 for the
buttons and 1/e for every other logit shifts nothing and gives the most likely action. metadata_props say the rest:
schema, network sizes, action repeat, frame delay, the checkpoint's hash, versions.

Before anything is written, the export plays `--steps` frames beside the policy, each carrying its own state:
    states     largest difference of any state number
    logits     largest difference, both scored on the actions that torch chose: logits of a later head depend on the
               earlier ones, so after the first action that differs they could not be compared otherwise. For this a
               twin of the file is exported (and quantised) that returns logits in place of actions.
    actions    frames on which any of the 13 numbers differs, given the same noise
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import contextlib
import hashlib
import io
import json
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from rich.table import Table

from cleanmelee.cli import PATH, SEEDS, Range, UserError, check_ranges, lookup, run_script
from cleanmelee.controller import ACTION_SIZE, NUM_LOGITS
from cleanmelee.features import NUM_INTS
from cleanmelee.files import atomic_write, check_writable
from cleanmelee.frame import CHARACTERS, FIRST_CONTROL_FRAME, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.observation import Observation, observe, schema_hash, upcoming
from cleanmelee.onnx import check_model, onnx_session
from cleanmelee.runs import versions
from cleanmelee.terminal import Terminal
from melee_common import Policy, load_policy, to_torch

OPSET = 18                                                               # the exporter's own; higher ones are converted
MAX_LOGIT_ERROR = 1e-3                                                      # of a float32 export; measured: below 1e-5
LATENCY_STEPS, WARM_UP_STEPS = 2000, 200


@dataclass
class Args:
    checkpoint: Annotated[str, PATH]
    """policy to export, a .pt file"""
    output: Annotated[str, PATH]
    """file to write, ends in .onnx"""
    int8: Literal["none", "dynamic"] = "none"
    """dynamic: weights of all matrix products in eight bits, activations quantised on the fly (off: none, float32)"""
    steps: Annotated[int, Range(1, 10 ** 6)] = 200
    """frames of the parity check, from a game between two random players"""
    character: str = "mewtwo"
    """character of both players in the parity check"""
    seed: Annotated[int, SEEDS] = 1
    """seed of the parity check's game and noise"""


class Act(torch.nn.Module):
    """What is exported: one frame of play. Tensors in, tensors out."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = policy

    def forward(self, floats, ints, noise, *state):
        actions, state = self.policy.step(Observation(floats, ints), state, noise)
        return actions, *state                                              # [B, 13], [B, H] ...


class Score(Act):
    """Its twin for the parity check: logits of given actions."""

    def forward(self, floats, ints, actions, *state):
        features, state = self.policy.features(Observation(floats, ints), state)
        return self.policy.logits(features, actions), *state                # [B, 81], [B, H] ...


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


def export(module: Act, third: torch.Tensor, names: tuple[str, str]):
    """-> onnx.ModelProto of Act or Score; names are those of the third input and of the first output."""
    rows = len(third)                                                      # not 1, or the batch size becomes a constant
    state = module.policy.initial_state(rows)
    inputs = (torch.zeros(rows, module.policy.num_floats), torch.zeros(rows, NUM_INTS, dtype=torch.int16), third,
              *state)
    batch = {0: torch.export.Dim("batch", min=1)}
    shapes = [batch] * 3 + [tuple(batch for _ in state)] * bool(state)
    with quiet(), torch.inference_mode():
        model = torch.onnx.export(
            module.eval(), inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=tuple(shapes), verbose=False,
            input_names=["floats", "ints", names[0], *(f"state_{k}" for k in range(len(state)))],
            output_names=[names[1], *(f"next_state_{k}" for k in range(len(state)))]).model_proto
    del model.graph.value_info[:]                                   # the quantiser transposes weights and trips over it
    return model


def quantise(model):
    """-> the model with int8 weights in every matrix product. Tables, state and sums stay float32.

    The scale of the activations is taken over the whole batch, so a row's result depends a little on its neighbours."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
        path = Path(folder) / "model.onnx"
        quantize_dynamic(model, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return onnx.load(path)


def game_frames(steps: int, character: str, seed: int, frame_delay: int = 0) -> Observation:
    """Observations [steps, 1, ...] of player 0 in a game between two random players, from the frame on which they
    move, as who acts so late sees them."""
    frames = []
    controllers = []
    with VecEnv(1, lookup(CHARACTERS, character, "character"), STAGES["final_destination"], seed=seed,
                bot_kinds=BOTS["random"], max_episode_frames=0) as envs:
        while len(frames) < steps + 1 + frame_delay:
            envs.step(envs.controllers.copy())
            if envs.frames["frame_id"][0] >= FIRST_CONTROL_FRAME:
                frames.append(envs.frames.copy())
                controllers.append(envs.controllers.copy())
    pending = upcoming(np.concatenate(controllers), frame_delay)            # [steps, 2, frame_delay]
    obs = observe(np.concatenate(frames[:steps]), np.concatenate(controllers[:steps]), pending)
    return Observation(obs.floats[:, :1], obs.ints[:, :1])


def parity(policy: Policy, acting, scoring, obs: Observation, noise: torch.Tensor) -> dict:
    """The policy and its export side by side over obs [T, 1, ...] with noise [T, 1, 81], each with its own state."""
    state = policy.initial_state(1)
    onnx_state = [s.numpy() for s in state]
    worst_state = 0.
    worst_logit = 0.
    different = 0
    for t in range(len(noise)):
        now = to_torch(Observation(obs.floats[t], obs.ints[t]))
        features, _ = policy.features(now, state)
        actions, state = policy.step(now, state, noise[t])
        logits = policy.logits(features, actions)

        feed = {"floats": obs.floats[t], "ints": obs.ints[t], **{f"state_{k}": s for k, s in enumerate(onnx_state)}}
        onnx_logits = scoring.run(["logits"], feed | {"actions": actions.numpy()})[0]
        onnx_actions, *onnx_state = acting.run(None, feed | {"noise": noise[t].numpy()})
        worst_logit = float(np.maximum(worst_logit, np.abs(onnx_logits - logits.numpy()).max()))  # keeps NaN
        different += int((onnx_actions != actions.numpy()).any())
        for mine, theirs in zip(state, onnx_state, strict=True):
            worst_state = float(np.maximum(worst_state, np.abs(theirs - mine.numpy()).max()))
    return {"states": worst_state, "logits": worst_logit, "actions": different}


def latency(step) -> tuple[float, float]:
    """-> p50 and p99 of one step in microseconds, warm."""
    times = np.zeros(WARM_UP_STEPS + LATENCY_STEPS)
    for i in range(len(times)):
        tick = time.perf_counter()
        step()
        times[i] = time.perf_counter() - tick
    return tuple(np.percentile(times[WARM_UP_STEPS:] * 1e6, [50, 99]).tolist())


def main(args: Args) -> None:
    checkpoint = Path(args.checkpoint)
    output = Path(args.output)
    check_ranges(args)
    if output.suffix != ".onnx":
        raise UserError(f"--output {output}: must end in .onnx, by which play.py knows what it is")
    lookup(CHARACTERS, args.character, "character")
    policy, _ = load_policy(checkpoint)
    check_writable("--output", output)
    console = Terminal()
    torch.set_num_threads(1)                                                # as in play, or latencies mean nothing

    # ----------------------------------------------------------------------------------------------------------- export
    models = {"float32": (export(Act(policy), torch.rand(2, NUM_LOGITS), ("noise", "actions")),
                          export(Score(policy), torch.zeros(2, ACTION_SIZE, dtype=torch.long), ("actions", "logits")))}
    if args.int8 == "dynamic":
        models["int8"] = tuple(map(quantise, models["float32"]))
    metadata = {
        "program": "CleanMelee", "schema": schema_hash(), "config": json.dumps(policy.config),
        "action_repeat": str(policy.action_repeat), "frame_delay": str(policy.frame_delay),
        "checkpoint": checkpoint.name, "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "int8": args.int8, "opset": str(OPSET), "versions": json.dumps(versions())}
    for acting, _ in models.values():
        for key, value in metadata.items():
            acting.metadata_props.add(key=key, value=value)
        try:
            check_model(acting.SerializeToString())                         # what play.py asks of a file
        except ValueError as error:
            raise UserError(f"{checkpoint}: its network, exported, {error}") from None

    # ---------------------------------------------------------------------------------------------- parity and latency
    obs = game_frames(args.steps, args.character, args.seed, policy.frame_delay)
    noise = torch.rand(args.steps, 1, NUM_LOGITS, generator=torch.Generator().manual_seed(args.seed))
    found = Table("parity", "states differ by", "logits differ by", "actions differ",
                  title=f"{args.steps} frames, same noise")
    speed = Table("one step, batch 1", "p50 us", "p99 us", "file kB", title=f"{LATENCY_STEPS} warm steps, one thread")
    first = to_torch(Observation(obs.floats[0], obs.ints[0]))
    state = policy.initial_state(1)
    with torch.inference_mode():
        p50, p99 = latency(lambda: policy.step(first, state, noise[0]))
        speed.add_row("torch float32", f"{p50:.0f}", f"{p99:.0f}",
                      f"{checkpoint.stat().st_size / 1e3:.0f} (checkpoint)")
        for name, (acting, scoring) in models.items():
            player = onnx_session(acting.SerializeToString())
            error = parity(policy, player, onnx_session(scoring.SerializeToString()), obs, noise)
            found.add_row(name, f"{error['states']:.1e}" if state else "no state", f"{error['logits']:.1e}",
                          f"{error['actions']} of {args.steps}")
            if name == "float32" and not error["logits"] < MAX_LOGIT_ERROR:
                raise RuntimeError(f"the export is not the policy: logits differ by {error['logits']:.2g}, "
                                   f"more than {MAX_LOGIT_ERROR}; nothing was written")
            feed = {"floats": obs.floats[0], "ints": obs.ints[0], "noise": noise[0].numpy(),
                    **{f"state_{k}": s.numpy() for k, s in enumerate(state)}}
            p50, p99 = latency(lambda: player.run(None, feed))
            speed.add_row(f"onnx {name}", f"{p50:.0f}", f"{p99:.0f}", f"{acting.ByteSize() / 1e3:.0f}")

    # ------------------------------------------------------------------------------------------------------------ write
    content = (models["int8"] if args.int8 == "dynamic" else models["float32"])[0].SerializeToString()
    atomic_write(output, content)
    console.print(found, speed)
    console.print(f"wrote {output} ({len(content) / 1e3:.0f} kB, {'int8' if args.int8 == 'dynamic' else 'float32'})")


if __name__ == "__main__":
    run_script(main, Args)
