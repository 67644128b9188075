"""Exported policies: ONNX files that act like the policy they were made of. `export_onnx.py` writes them."""

from pathlib import Path

import numpy as np
import torch

from cleanmelee.cli import UserError
from melee_common import NUM_BUTTONS, NUM_LOGITS, Observation, Policy, load_policy, schema_hash

# All that an export can be told: uniform numbers that become noise of 0. Gumbel at 1/e, logistic at .5.
MOST_LIKELY = torch.full((NUM_LOGITS,), 1 / np.e)
MOST_LIKELY[:NUM_BUTTONS] = .5


def onnx_session(model: bytes):
    """onnxruntime on one thread that sleeps while it waits: the game needs the other cores."""
    import onnxruntime                                                      # here: most runs need no second runtime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4                                          # its own lines about a bad file
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxPolicy:
    """An exported policy with what Policy has for playing, so that `act` does not know the difference: `initial_state`,
    `step`, `config` and in it `action_repeat` and `frame_delay`."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path, or write it with export_onnx.py")
        try:
            self.session = onnx_session(path.read_bytes())
        except Exception:  # onnxruntime has an exception type for each way a file can be bad
            raise UserError(f"{path}: not a readable ONNX file; export the checkpoint again with export_onnx.py"
                            ) from None
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("program") != "CleanMelee":
            raise UserError(f"{path}: an ONNX file, but no CleanMelee policy; write one with export_onnx.py")
        if metadata["schema"] != schema_hash():
            raise UserError(f"{path}: exported for frame schema {metadata['schema']}, this code has {schema_hash()}; "
                            "export a checkpoint of this revision")
        self.config = {"action_repeat": int(metadata["action_repeat"]), "frame_delay": int(metadata["frame_delay"])}
        self.state_shapes = [i.shape[1:] for i in self.session.get_inputs() if i.name.startswith("state_")]

    @property
    def action_repeat(self) -> int:
        return self.config["action_repeat"]

    @property
    def frame_delay(self) -> int:
        return self.config["frame_delay"]

    def initial_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros(batch, *shape) for shape in self.state_shapes)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        if noise is None:
            noise = MOST_LIKELY.repeat(len(obs.floats), 1)
        feed = {"floats": obs.floats.numpy(), "ints": obs.ints.numpy(), "noise": noise.numpy(),
                **{f"state_{k}": s.numpy() for k, s in enumerate(state)}}
        actions, *state = self.session.run(None, feed)                      # [B, 13], [B, H] ...
        return torch.from_numpy(actions), tuple(map(torch.from_numpy, state))


def load_player(path: str | Path) -> Policy | OnnxPolicy:
    """A policy that can play, from a checkpoint or from an export (.onnx). UserError says what is wrong with a file."""
    path = Path(path)
    return OnnxPolicy(path) if path.suffix == ".onnx" else load_policy(path)[0]
