"""Exported policies: ONNX files that act like the policy they were made of. `export_onnx.py` writes them.

Whoever wrote a file, playing it is safe: it may hold one step of a network and nothing else. No loops, no other files,
no functions, no operators of other domains; what it asks for in memory and in time has limits, and what it answers is
checked."""

import functools
import json
import math
import os
import threading
from pathlib import Path

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.controller import (
    ACTION_SIZE, HEADS, NUM_BUTTONS, NUM_LOGITS, SHOULDER_GRID, STICK_GRID, STICK_TABLE,
)
from cleanmelee.files import read_file
from cleanmelee.frame import BUTTONS
from cleanmelee.features import FLOATS, IDS, INT_LIMITS, INT_NAMES, NUM_INTS, OWN_CONTROLLER, TABLE_ROWS, num_floats
from cleanmelee.names import check_players, number
from cleanmelee.observation import Observation, check_timing, schema_hash
from cleanmelee.terminal import printable

# Uniform numbers that become noise of 0: Gumbel at 1/e, logistic at .5.
MOST_LIKELY = np.full(NUM_LOGITS, 1 / np.e, np.float32)
MOST_LIKELY[:NUM_BUTTONS] = .5
ACTION_LIMITS = np.array([1] * NUM_BUTTONS + [n - 1 for n in list(HEADS.values())[1:]], np.uint64)  # [13]

FILE_BYTES = 2 ** 27
DESCRIPTION_BYTES, DESCRIPTION_FIELDS = 2 ** 22, 2 ** 16       # of all but the weights; a parser needs a hundredfold
ARENA_BYTES = 2 ** 29                                                       # of all sessions of this process together
STATE_SIZE = 2 ** 20                                                        # numbers that a player may remember
FIRST_STEP_SECONDS = 10
STATE_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
# What a step of a network is made of. Not: control flow, randomness, sequences, strings, images.
OPERATORS = set("""
    Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Constant ConstantOfShape Cos CumSum DequantizeLinear Div
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater
    GreaterOrEqual HardSigmoid HardSwish Identity LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
    MatMulInteger Max Mean Min Mish Mod Mul Neg Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round
    ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum
    Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor""".split())


def interface(frame_delay: int, state: tuple) -> dict[str, str]:
    """What another program must know to ask an export and to press what it answers, as metadata: a JSON text for each
    key of docs/export.md. state: of `initial_state`."""
    floats, ints = ([{name: value for name, value in feature._asdict().items() if value not in ("", math.inf)} |
                     ({"rows": TABLE_ROWS[feature.table]} if feature.table else {}) for feature in some]
                    for some in (FLOATS, IDS))
    controller = {
        "buttons": BUTTONS, "heads": HEADS, "stick_grid": STICK_GRID.tolist(), "shoulder_grid": SHOULDER_GRID.tolist(),
        "sticks": np.rint(STICK_TABLE * 80).astype(int).tolist()}           # [17, 17, 2] in 1/80
    queue = {"frames": frame_delay, "columns": [OWN_CONTROLLER.start, OWN_CONTROLLER.stop]}
    states = [{"input": f"state_{k}", "output": f"next_state_{k}", "shape": list(part.shape[1:]),
               "type": str(part.dtype).removeprefix("torch.")} for k, part in enumerate(state)]
    return {name: json.dumps(value) for name, value in (
        ("floats", floats), ("ints", ints), ("queue", queue), ("states", states), ("controller", controller))}


def check_model(model: bytes) -> dict[str, str]:
    """-> the metadata of an ONNX file. Raises ValueError for what no export has, and any exception for what is no ONNX
    file."""
    check_description(model)
    import onnx                                                             # here: most runs need no second runtime
    proto = onnx.load_model_from_string(model)
    if {opset.domain for opset in proto.opset_import} - {"", "ai.onnx"} or proto.functions or proto.training_info:
        raise ValueError("has operators of its own")
    if proto.graph.sparse_initializer:
        raise ValueError("has sparse weights")
    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise ValueError(f"uses {printable(node.domain, 40)} {printable(node.op_type, 40)}, which is not among "
                             "OPERATORS in cleanmelee/onnx.py")
        kinds = onnx.AttributeProto
        for attribute in node.attribute:
            if attribute.type not in (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.TENSOR, kinds.FLOATS, kinds.INTS):
                raise ValueError(f"gives {node.op_type} more than numbers")
            if attribute.type == kinds.TENSOR:
                tensors.append(attribute.t)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data for tensor in tensors):
        raise ValueError("keeps weights in another file")
    if any(min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > len(model) for tensor in tensors):
        raise ValueError("says that its weights are larger than it is")
    shapes = (value.type.tensor_type.shape for some in (proto.graph.input, proto.graph.output, proto.graph.value_info)
              for value in some)
    if any(not 0 <= n.dim_value <= STATE_SIZE for shape in shapes for n in shape.dim):  # a session allocates for them
        raise ValueError("has inputs or outputs of another size")
    return {entry.key: entry.value for entry in proto.metadata_props}


def check_description(model: bytes) -> None:
    """Raises ValueError if an ONNX file is more than weights and a short description of what is done with them: a
    parser makes hundreds of bytes out of a field of two. IndexError: it is cut off."""
    weights = 0
    fields = 0

    def messages(start: int, end: int, wanted: int):
        """(start, end) of the fields numbered `wanted` of the message that lies there."""
        nonlocal fields
        while start < end:
            fields += 1
            if fields > DESCRIPTION_FIELDS:
                raise ValueError("describes more than a network")
            tag, start = varint(start)
            kind = tag & 7
            if kind == 2:
                size, start = varint(start)
                if start + size > end:
                    raise ValueError("is cut off")
                if tag >> 3 == wanted:
                    yield start, start + size
                start += size
            elif kind == 0:
                start = varint(start)[1]
            elif kind in (1, 5):
                start += {1: 8, 5: 4}[kind]
            else:
                raise ValueError("is no protocol buffer of today")

    def varint(at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = model[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise ValueError("has a number of more than 64 bits")

    for graph in messages(0, len(model), wanted=7):
        for initializer in messages(*graph, wanted=5):
            weights += sum(end - start for start, end in messages(*initializer, wanted=9))          # raw_data
    if len(model) - weights > DESCRIPTION_BYTES:
        raise ValueError("describes more than a network")


@functools.cache
def limit_memory() -> None:
    """All sessions of this process share one arena, which has an end."""
    import onnxruntime
    where = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
                                      onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg(ARENA_BYTES, -1, -1, -1))


def onnx_session(model: bytes):
    """onnxruntime on one thread that sleeps while it waits: the game needs the other cores."""
    import onnxruntime                                                      # here: most runs need no second runtime
    limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4                                          # its own lines about a bad file
    # Folding computes, and nothing could stop it; the exporter has folded already.
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0,
                                        disabled_optimizers=["ConstantFolding"])


class OnnxPolicy:
    """An exported policy, to play with: `initial_state`, `step`, `config` with `action_repeat` and `frame_delay`, and
    what the file has `said` of itself."""

    def __init__(self, path: Path):
        if not os.path.lexists(path):
            raise UserError(f"{path}: no such file; check the path, or write it with export_onnx.py")
        self.path = path
        again = "export the checkpoint again with export_onnx.py"
        model = read_file(path, FILE_BYTES)
        try:
            metadata = check_model(model)
            self.session = onnx_session(model)
        except ValueError as error:
            raise UserError(f"{path}: not a readable ONNX file of a policy: {printable(error, 200)}; {again}") from None
        except Exception:  # onnxruntime has an exception type for each way a file can be bad
            raise UserError(f"{path}: not a readable ONNX file; {again}") from None
        if metadata.get("program") != "CleanMelee":
            raise UserError(f"{path}: an ONNX file, but no CleanMelee policy; write one with export_onnx.py")
        if metadata.get("schema") != schema_hash():
            raise UserError(f"{path}: exported for frame schema {printable(metadata.get('schema'), 40)}, this code has "
                            f"{schema_hash()}; export a checkpoint of this revision")
        self.said = metadata
        self.config = {name: whole_number(metadata.get(name)) for name in ("action_repeat", "frame_delay")}
        try:
            check_timing(**self.config)
            self.players, self.player = read_players(metadata), 0
        except UserError as error:
            raise UserError(f"{path}: its {error}; {again}") from None
        self._check_signature(f"{path}: its inputs and outputs are not those of this revision's exports; {again}",
                              len(model))
        self.states = [(i.shape[1:], STATE_TYPES[i.type]) for i in self.session.get_inputs()[4:]]
        self.state_names = [f"state_{k}" for k in range(len(self.states))]
        self.answers = [output.name for output in self.session.get_outputs()]                   # asked for each time
        floats = np.repeat(np.float32([[-10], [0], [10]]), self.num_floats, 1)
        obs = Observation(floats, np.stack([0 * INT_LIMITS, INT_LIMITS // 2, INT_LIMITS]))
        self._check_first_step(obs)

    def _check_signature(self, message: str, size: int) -> None:
        """Raises UserError(message) unless this is a policy's step. size: bytes of the file."""
        inputs = [("floats", "tensor(float)", [self.num_floats]), ("ints", "tensor(int16)", [NUM_INTS]),
                  ("noise", "tensor(float)", [NUM_LOGITS]), ("deterministic", "tensor(bool)", [])]
        outputs = [("actions", "tensor(int64)", [ACTION_SIZE])]
        found = [[(x.name, x.type, x.shape or []) for x in some] for some in (
            self.session.get_inputs(), self.session.get_outputs())]
        for k, (_, kind, shape) in enumerate(found[0][4:]):
            inputs.append((f"state_{k}", kind, shape[1:]))
            outputs.append((f"next_state_{k}", kind, shape[1:]))
            sound = kind in STATE_TYPES and all(type(n) is int and n > 0 for n in shape[1:])
            if not sound or math.prod(shape[1:]) > min(STATE_SIZE, size):
                raise UserError(message)
        for expected, some in zip((inputs, outputs), found, strict=True):
            free = all(shape and not isinstance(shape[0], int) for _, _, shape in some)
            if not free or expected != [(name, kind, shape[1:]) for name, kind, shape in some]:
                raise UserError(message)

    def _check_first_step(self, obs: Observation) -> None:
        import onnxruntime
        options = onnxruntime.RunOptions()
        clock = threading.Timer(FIRST_STEP_SECONDS, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            self.step(obs, self.initial_state(len(obs.floats)), None, options)
        finally:
            clock.cancel()

    @property
    def action_repeat(self) -> int:
        return self.config["action_repeat"]

    @property
    def frame_delay(self) -> int:
        return self.config["frame_delay"]

    @property
    def num_floats(self) -> int:
        return num_floats(self.frame_delay)

    def play_as(self, player: str) -> None:
        """UserError unless it was told this name in training."""
        self.player = number(player, self.players)

    def initial_state(self, batch: int) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros((batch, *shape), dtype) for shape, dtype in self.states)

    def step(self, obs: Observation, state: tuple, noise: np.ndarray | None, options=None
             ) -> tuple[np.ndarray, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state. UserError:
        what the file answers is no such thing. options: onnxruntime's RunOptions."""
        B, ints = len(obs.floats), obs.ints
        if self.player:
            ints = ints.copy()
            ints[:, INT_NAMES.index("player.name")] = self.player
        feed = {"floats": obs.floats, "ints": ints, "deterministic": np.full(B, noise is None),
                "noise": np.zeros((B, NUM_LOGITS), np.float32) if noise is None else noise,
                **dict(zip(self.state_names, state, strict=True))}
        try:
            actions, *new = self.session.run(self.answers, feed, options)          # [B, 13], [B, H] ...
        except Exception as error:  # one type for each way that an operator can fail
            raise UserError(f"{self.path}: cannot be played ({printable(error, 200)}); export the checkpoint again"
                            ) from None
        if actions.shape != (B, ACTION_SIZE) or (actions.view(np.uint64) > ACTION_LIMITS).any():    # or negative
            raise UserError(f"{self.path}: answers with what is no action; export the checkpoint again")
        if any(a.shape != b.shape or not math.isfinite(np.vdot(a, a)) for a, b in zip(new, state, strict=True)):
            raise UserError(f"{self.path}: its state is no longer finite, or of another size; export the checkpoint "
                            "again")
        return actions, tuple(new)


def read_players(metadata: dict[str, str]) -> list[str]:
    """The names in a file's metadata. UserError: they are none."""
    try:
        players = json.loads(metadata.get("players", "[]"))
    except (ValueError, RecursionError):
        players = None
    check_players(players, 1 if players else 0)
    return players


def whole_number(text: str | None) -> int | str | None:
    """"18" -> 18; anything else as it is."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else text


def load_player(path: str | Path):
    """An OnnxPolicy of an export (.onnx), a TorchPolicy of a checkpoint. UserError says what is wrong with a file."""
    path = Path(path)
    if path.suffix == ".onnx":
        return OnnxPolicy(path)
    from cleanmelee.player import load_torch_policy                         # here: it takes torch, which takes seconds
    return load_torch_policy(path)
