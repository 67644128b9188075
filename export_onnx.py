"""A checkpoint becomes one ONNX file that plays without torch: one recurrent step, state in and state out.

    python export_onnx.py --checkpoint policy.pt --output policy.onnx                    # float32, 10 s
    python export_onnx.py --checkpoint policy.pt --output policy.onnx --int8 static --calibration-replays REPLAYS
    python export_onnx.py --checkpoint policy.pt --output policy.onnx --npz policy.npz   # and its weights for numpy
    python export_onnx.py --benchmark policy.onnx                                        # how fast is this file here?

    inputs    floats [B, F] float32, ints [B, I] int16     one row of `observe` for each player; the floats end with
                                                           the queue of what it chose and what has not acted yet
              noise [B, 81] float32                        uniform in (0, 1), one number for each logit
              deterministic [B] bool                       true: the most likely action, whatever the noise
              state_0 [B, ...] ...                         zeros at a game's start (the mlp has none)
    outputs   actions [B, 13] int64                        for `decode_actions`
              next_state_0 [B, ...] ...                    the next frame's state

The file draws no random numbers: sampling is a function of `noise`, the same in torch and here. Its metadata say all
that another program needs to play with it; docs/export.md explains them.

Before anything is written, the export plays `--steps` decisions of several players beside the policy, each version
with a memory of its own:
    states     largest difference of any state number
    logits     largest difference, both scored on the actions that were taken there: logits of a later head depend on
               the earlier ones, so after the first action that differs they could not be compared otherwise
    actions    decisions in which any of the 13 numbers differs, given the same noise; over the first ones it also looks
               at the most likely actions
    loss       cross-entropy of the actions that were taken there

--int8 leaves layers in float32 until enough decisions stay the same and the loss stays low. What comes out is written
only if it is a gain (--int8-gain); if not, a line says so and the file is float32.
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import copy
import hashlib
import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table

from cleanmelee.cli import PATH, SEEDS, Range, UserError, check_ranges, lookup, run_script
from cleanmelee.controller import ACTION_SIZE, HEADS, NUM_LOGITS
from cleanmelee.features import ITEMS, NANAS, NUM_INTS, TABLE_ROWS, Lens, id_columns
from cleanmelee.files import atomic_write, check_writable
from cleanmelee.frame import CHARACTERS, NUM_ITEMS, NUM_PLAYERS
from cleanmelee.observation import Observation, schema_hash
from cleanmelee.onnx import MOST_LIKELY, OnnxPolicy, check_model, interface, onnx_session
from cleanmelee.quantisation import (
    SCREEN, Frames, Quantiser, Result, agreement, choose_layers, game_frames, measure, quiet, replay_frames, steps_of,
)
from cleanmelee.reference import pack_weights
from cleanmelee.runs import best_checkpoint, versions
from cleanmelee.terminal import Terminal, printable, warn
from melee_common import Policy, load_policy, to_torch

OPSET = 18                                                               # the exporter's own; higher ones are converted
MAX_LOGIT_ERROR = 1e-3                                                      # of a float32 export; measured: below 1e-5
MAX_LIKELIEST = .01                                                         # share that may differ: two can be even
MIN_AGREEMENT, MAX_LOSS_GROWTH = .98, .01                                   # of int8, against float32
LATENCY_STEPS, WARM_UP_STEPS = 2000, 200


@dataclass
class Args:
    checkpoint: Annotated[str, PATH] = ""
    """policy to export, a .pt file or a run's folder; needed but for --benchmark"""
    output: Annotated[str, PATH] = ""
    """file to write, ends in .onnx; needed but for --benchmark"""
    int8: Literal["none", "dynamic", "static"] = "none"
    """matrix products of eight-bit numbers; dynamic: activations get their scales on the fly; static: beforehand, from
    --calibration-replays or the embedded game (off: none, float32)"""
    int8_gain: Literal["faster", "smaller", "either"] = "either"
    """what int8 must be than float32 to be written, here and now; if it is not, the file is float32"""
    calibration_replays: Annotated[str, PATH] = ""
    """folder of .slp files whose frames calibrate --int8 and measure every export (off: empty, the policy plays itself
    in the embedded game)"""
    npz: Annotated[str, PATH] = ""
    """file for the weights as numpy arrays, with which cleanmelee/reference.py plays; ends in .npz (off: empty)"""
    benchmark: Annotated[str, PATH] = ""
    """an exported file to time; nothing else is done (off: empty)"""
    steps: Annotated[int, Range(1, 10 ** 6)] = 200
    """decisions of each player in the parity check and the calibration"""
    character: str = "mewtwo"
    """character of both players in the embedded game"""
    seed: Annotated[int, SEEDS] = 1
    """seed of that game and of the noise"""


# Of a small network each operation takes longer to begin than to compute, so embedding and sampling are exported in as
# few as can be. The parity check holds them to what the policy itself does.

class Embed(torch.nn.Module):
    """As Embedding. Ids are looked up all at once, in one table: all tables, cut into pieces as wide as the narrowest,
    below each other. Items and Nanas keep tables of their own, which hold their layers' bias."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.item, self.nana = embedding.item.weight, embedding.nana.weight
        tables = {name: getattr(embedding, name).weight.detach() for name in TABLE_ROWS}
        own = {"item_type": tables.pop("item_type") + embedding.item.bias.detach(),
               "nana_action": tables.pop("nana_action") + embedding.nana.bias.detach()}
        width = math.gcd(*(table.shape[1] for table in tables.values()))
        columns, offsets, pieces = [], [], []                               # of ints; of each one's row; of the table
        for name in ("action", "character", "stage", "name"):               # as Embedding puts them side by side
            rows, parts = sum(map(len, pieces)), tables[name].split(width, 1)
            for column in range(NUM_INTS)[id_columns(name)]:
                columns += [column] * len(parts)
                offsets += [rows + k * TABLE_ROWS[name] for k in range(len(parts))]
            pieces += parts
        self.sizes = [len(columns)]
        for name in own:
            more = range(NUM_INTS)[id_columns(name)]
            self.sizes.append(len(more))
            columns, offsets = [*columns, *more], [*offsets, *[0] * len(more)]
        for name, value in (("table", torch.cat(pieces)), ("columns", torch.tensor(columns)), *own.items(),
                            ("offsets", torch.tensor(offsets, dtype=torch.int32)), *embedding.named_buffers()):
            self.register_buffer(name, value)
        self.has_lens = embedding.has_lens

    def forward(self, obs: Observation) -> torch.Tensor:
        """[B, F], [B, I] -> [B, n]"""
        floats, ints = obs.floats, obs.ints.int()
        if self.has_lens:
            floats, ints = Lens(self.lens_floats, self.lens_ids, self.lens_own).show(floats, ints)
        ids, items, nanas = (ints.index_select(1, self.columns) + self.offsets).split(self.sizes, 1)
        of_nanas, of_items, others = floats.split(
            [NANAS.stop, ITEMS.stop - ITEMS.start, floats.shape[1] - ITEMS.stop], 1)
        items = self._present(of_items.unflatten(1, (NUM_ITEMS, -1)), self.item, F.embedding(items, self.item_type))
        nanas = self._present(of_nanas.unflatten(1, (NUM_PLAYERS, -1)), self.nana, F.embedding(nanas, self.nana_action))
        return torch.cat([others, F.embedding(ids, self.table).flatten(1), items.sum(1), nanas.flatten(1)], 1)

    @staticmethod
    def _present(floats, weight, looked_up):
        """[B, k, f], of which the first says whether there is such a thing -> [B, k, n]"""
        return F.relu(F.linear(floats, weight) + looked_up) * floats[..., :1]


class Act(torch.nn.Module):
    """What is exported: one frame of play. Beside what is chosen, for the checks alone, logits of actions that were
    `taken`; `cut` takes these out again."""

    def __init__(self, policy: Policy):
        super().__init__()
        self.policy = copy.deepcopy(policy)
        self.policy.embedding = Embed(policy.embedding)
        biases = [layer.bias.detach() for layer in policy.controller_head.logits.values()]
        self.register_buffer("biases", torch.cat(biases[1:]))               # [73]
        self.register_buffer("most_likely", torch.from_numpy(MOST_LIKELY))

    def forward(self, floats, ints, noise, deterministic, taken, *state):
        noise = torch.where(deterministic[:, None], self.most_likely, noise)                        # [B, 81]
        features, state = self.policy.features(Observation(floats, ints), state)
        actions = self._sample(features, noise)
        return actions, self.policy.logits(features, taken), *state         # [B, 13], [B, 81], [B, ...] ...

    def _sample(self, features, noise):
        """[B, H], [B, 81] -> [B, 13], as ControllerHead. Bias and noise are added to logits as they are multiplied."""
        head, (num_buttons, *sizes) = self.policy.controller_head, HEADS.values()
        coins, choices = noise.clamp(1e-6, 1 - 1e-6).split([num_buttons, sum(sizes)], 1)
        shifts = (self.biases - (-choices.log()).log()).split(sizes, 1)     # with Gumbel noise
        seen = head.project(features)
        pressed = head.logits["buttons"](F.relu(seen)).sigmoid() > 1 - coins            # logit and logistic noise > 0
        seen = F.linear(pressed.float(), head.seen_buttons.weight, seen)
        actions = [pressed.long()]
        for name, shift in zip(list(HEADS)[1:], shifts, strict=True):
            logits = F.linear(F.relu(seen), head.logits[name].weight, shift)
            actions.append(logits.argmax(-1, keepdim=True))
            if name in head.seen:
                seen = seen + F.embedding(actions[-1], head.seen[name].weight)[:, 0]
        return torch.cat(actions, -1)


def export(policy: Policy):
    """-> onnx.ModelProto of Act. UserError: the exporter lacks something that the network does."""
    rows = 2                                                               # not 1, or the batch size becomes a constant
    state = policy.initial_state(rows)
    inputs = (torch.zeros(rows, policy.num_floats), torch.zeros(rows, NUM_INTS, dtype=torch.int16),
              torch.rand(rows, NUM_LOGITS), torch.zeros(rows, dtype=torch.bool),
              torch.zeros(rows, ACTION_SIZE, dtype=torch.long), *state)
    batch = {0: torch.export.Dim("batch", min=1)}
    shapes = [batch] * 5 + [tuple(batch for _ in state)] * bool(state)
    try:
        with quiet(), torch.inference_mode():
            model = torch.onnx.export(
                Act(policy).eval(), inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=tuple(shapes),
                verbose=False, output_names=["actions", "logits", *(f"next_state_{k}" for k in range(len(state)))],
                input_names=["floats", "ints", "noise", "deterministic", "taken",
                             *(f"state_{k}" for k in range(len(state)))]).model_proto
    except Exception as error:  # a type for each of the exporter's passes
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise UserError(f"the exporter cannot turn this network into ONNX ({printable(lines[0], 200)}); change what it "
                        "computes in cleanmelee/backbones.py") from None
    del model.graph.value_info[:]                                   # the quantiser transposes weights and trips over it
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]                                          # where in whose files it was computed
    return model


def cut(model, metadata: dict[str, str]):
    """-> the model as it is written: what is chosen alone, with metadata."""
    import onnx
    inputs, outputs = ([x.name for x in some if x.name not in ("taken", "logits")]
                       for some in (model.graph.input, model.graph.output))
    part = onnx.utils.Extractor(model).extract_model(inputs, outputs)
    del part.graph.value_info[:]
    onnx.helper.set_model_props(part, metadata)
    check_model(part.SerializeToString())                                   # what play.py asks of a file
    return part


@torch.inference_mode()
def parity(policy: Policy, model, frames: Frames, deterministic: bool = False) -> dict:
    """The policy and its export side by side over `frames`, each with its own state."""
    state = policy.initial_state(frames.begins.shape[1])
    worst_state, worst_logit, different = 0., 0., 0
    steps = steps_of(onnx_session(model.SerializeToString()), frames, deterministic)
    for t, (_, (theirs, their_logits, *their_state)) in enumerate(steps):
        state = tuple(part.index_fill(0, torch.from_numpy(np.flatnonzero(frames.begins[t])), 0) for part in state)
        now = to_torch(Observation(frames.obs.floats[t], frames.obs.ints[t]))
        features, state = policy.features(now, state)
        noise = None if deterministic else torch.from_numpy(frames.noise[t])
        actions, _ = policy.controller_head.sample(features, noise)
        logits = policy.logits(features, torch.from_numpy(frames.actions[t]))
        worst_logit = float(np.maximum(worst_logit, np.abs(their_logits - logits.numpy()).max()))   # keeps NaN
        different += int((theirs != actions.numpy()).any(-1)[frames.weights[t] > 0].sum())
        for mine, other in zip(state, their_state, strict=True):
            worst_state = float(np.maximum(worst_state, np.abs(other - mine.numpy()).max()))
    return {"states": worst_state, "logits": worst_logit, "actions": different}


def latencies(steps: dict) -> dict[str, tuple[float, float]]:
    """Functions that each make one step -> p50 and p99 of each in microseconds, warm. They take turns, so that whatever
    else the machine does falls on all of them."""
    times = np.zeros((WARM_UP_STEPS + LATENCY_STEPS, len(steps)))
    for row in times:
        for k, step in enumerate(steps.values()):
            tick = time.perf_counter()
            step()
            row[k] = time.perf_counter() - tick
    found = np.percentile(times[WARM_UP_STEPS:] * 1e6, [50, 99], axis=0)
    return {name: tuple(found[:, k].tolist()) for k, name in enumerate(steps)}


def stepper(model: bytes):
    """-> a function that makes one step of an exported file for one player, without a look at what comes out."""
    session = onnx_session(model)
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int16)": np.int16, "tensor(bool)": bool}
    feed = {i.name: np.zeros((1, *i.shape[1:]), kinds[i.type]) for i in session.get_inputs()}
    return lambda: session.run(None, feed)


def speed_table(found: dict[str, tuple[float, float]], sizes: dict[str, str]) -> Table:
    table = Table("one step, batch 1", "p50 us", "p99 us", "file kB", title=f"{LATENCY_STEPS} warm steps, one thread")
    for name, (p50, p99) in found.items():
        table.add_row(name, f"{p50:.0f}", f"{p99:.0f}", sizes[name])
    return table


def benchmark(path: Path) -> None:
    """--benchmark: what an exported file is, and how fast."""
    OnnxPolicy(path)                                                        # UserError: it is none
    model = path.read_bytes()
    said = check_model(model)
    console = Terminal()
    console.print(speed_table(latencies({path.name: stepper(model)}), {path.name: f"{len(model) / 1e3:.0f}"}))
    console.print(f"{path}: config {printable(said.get('config'), 300)}, int8 {printable(said.get('int8'), 20)}, frame "
                  f"delay {said['frame_delay']}, action repeat {said['action_repeat']}")


def check_paths(args: Args) -> tuple[Path, Path]:
    """Raises UserError for names that are missing or end otherwise than they must."""
    output = Path(args.output)
    for flag, value in (("--checkpoint", args.checkpoint), ("--output", args.output)):
        if not value:
            raise UserError(f"{flag} is missing: name the policy's .pt file with --checkpoint and the .onnx file to "
                            "write with --output")
    if output.suffix != ".onnx":
        raise UserError(f"--output {output}: must end in .onnx, by which play.py knows what it is")
    if args.npz and Path(args.npz).suffix != ".npz":
        raise UserError(f"--npz {args.npz}: must end in .npz")
    return best_checkpoint(args.checkpoint), output


def main(args: Args) -> None:
    check_ranges(args)
    torch.set_num_threads(1)                                                # as in play, or latencies mean nothing
    if args.benchmark:
        return benchmark(Path(args.benchmark))
    checkpoint, output = check_paths(args)
    character = lookup(CHARACTERS, args.character, "character")
    policy, saved = load_policy(checkpoint)
    check_writable("--output", output)
    if args.npz:
        check_writable("--npz", Path(args.npz))
    console = Terminal()

    # ----------------------------------------------------------------------------------------------------------- export
    if args.calibration_replays:
        calibration, frames = replay_frames(policy, args.calibration_replays, args.steps, args.seed)
    else:
        calibration, frames = game_frames(policy, args.steps, character, args.seed)
    models = {"float32": export(policy)}
    trained_on = saved.get("args", {}).get("character")
    metadata = interface(policy.frame_delay, policy.initial_state(1)) | {
        "program": "CleanMelee", "schema": schema_hash(), "config": json.dumps(policy.config),
        "action_repeat": str(policy.action_repeat), "frame_delay": str(policy.frame_delay),
        "players": json.dumps(policy.players), "player": str(policy.config.get("player", 0)),
        "character": printable(trained_on, 200) if isinstance(trained_on, str) else "",
        "checkpoint": checkpoint.name, "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "opset": str(OPSET), "versions": json.dumps(versions())}
    in_float = []
    if args.int8 != "none":
        quantiser = Quantiser(models["float32"], args.int8, calibration)
        chosen = choose_layers(quantiser, frames, MIN_AGREEMENT, MAX_LOSS_GROWTH)
        in_float = [name for name in quantiser.layers if name not in chosen]
        models |= {"int8": quantiser(chosen)} if chosen else {}
    try:
        files = {name: cut(model, metadata | {"int8": args.int8 if name == "int8" else "none"}).SerializeToString()
                 for name, model in models.items()}
    except ValueError as error:
        raise UserError(f"{checkpoint}: its network, exported, {error}") from None

    # ---------------------------------------------------------------------------------------------- parity and latency
    first = to_torch(Observation(frames.obs.floats[0, :1], frames.obs.ints[0, :1]))
    state, noise = policy.initial_state(1), torch.from_numpy(frames.noise[0, :1])
    with torch.inference_mode():
        speed = latencies({"torch float32": lambda: policy.step(first, state, noise)} | {
            f"onnx {name}": stepper(file) for name, file in files.items()})
    players, counted = frames.begins.shape[1], int((frames.weights > 0).sum())
    few = frames.part(slice(SCREEN))
    found = Table("parity", "states differ by", "logits differ by", "actions differ", "loss", title=(
        f"{args.steps} decisions of {players} players, same noise"))
    measured: dict[str, Result] = {}
    for name, model in models.items():
        error, measured[name] = parity(policy, model, frames), measure(model, frames)
        found.add_row(name, f"{error['states']:.1e}" if state else "no state", f"{error['logits']:.1e}",
                      f"{error['actions']} of {counted}", f"{measured[name].loss:.4f}")
        if name == "float32" and not error["logits"] < MAX_LOGIT_ERROR:
            raise RuntimeError(f"the export is not the policy: logits differ by {error['logits']:.2g}, "
                               f"more than {MAX_LOGIT_ERROR}; nothing was written")
        if name == "float32" and parity(policy, model, few, True)["actions"] > MAX_LIKELIEST * few.weights.size:
            raise RuntimeError("the export is not the policy: its most likely actions are others; nothing was written")

    # ------------------------------------------------------------------------------------------------------------ write
    sizes = {"torch float32": f"{checkpoint.stat().st_size / 1e3:.0f} (checkpoint)"} | {
        f"onnx {name}": f"{len(file) / 1e3:.0f}" for name, file in files.items()}
    console.print(found, speed_table(speed, sizes))
    written = "float32"
    if "int8" in files:
        faster = speed["onnx int8"][0] < speed["onnx float32"][0]
        smaller = len(files["int8"]) < len(files["float32"])
        console.print(f"int8 {args.int8}: {len(chosen)} of {len(quantiser.layers)} layers, "
                      f"{agreement(measured['int8'], measured['float32']):.2%} of the decisions stay the same, loss "
                      f"{measured['int8'].loss / measured['float32'].loss - 1:+.2%}; in float32, for what they would "
                      f"cost: {', '.join(in_float) or 'none'}")
        if {"faster": faster, "smaller": smaller, "either": faster or smaller}[args.int8_gain]:
            written = "int8"
        else:
            warn(f"--int8 {args.int8}: no gain here (--int8-gain {args.int8_gain}): {speed['onnx int8'][0]:.0f} us "
                 f"against {speed['onnx float32'][0]:.0f}, {len(files['int8']) / 1e3:.0f} kB against "
                 f"{len(files['float32']) / 1e3:.0f}; {output} is float32")
    elif args.int8 != "none":
        warn(f"--int8 {args.int8}: no layer of this policy bears it; {output} is float32")
    if args.npz:
        weights = io.BytesIO()
        np.savez(weights, **pack_weights(policy.config, {k: v.numpy() for k, v in policy.state_dict().items()}))
        atomic_write(Path(args.npz), weights.getbuffer())
    atomic_write(output, files[written])
    console.print(f"wrote {output} ({len(files[written]) / 1e3:.0f} kB, {written})" +
                  (f" and {args.npz}" if args.npz else ""))


if __name__ == "__main__":
    run_script(main, Args)
