"""Breaks files on purpose, uses them as a person would, and kills runs: nothing may end in anything but a result or a
line that says what is wrong.

    python tests/tools/attack.py replays --count 2000          # .slp files, read as training data; some minutes each
    python tests/tools/attack.py checkpoints --count 500       # .pt files, in play and drawn from a pool
    python tests/tools/attack.py onnx --count 500              # .onnx files, in play
    python tests/tools/attack.py folders --count 200           # a run's folder, resumed, and its pool
    python tests/tools/attack.py kills --count 30              # runs, killed and resumed
    python tests/tools/attack.py onnx --only 17 --verbose      # one case again, with all that it prints

A case is a sound file (`--replays DIR` adds yours to the games that it records itself), broken by one mutation, and a
process of its own that uses it. How that ends:

    same, differs   a result like the sound file's or another one: what got through, to be judged by its mutation
    refused         exit code 2 and one printable line of at most 600 characters that names the file
    traceback       any other exception, also in a thread, and whatever a victim here calls unsound
    hang            no end within --seconds
    memory          a peak above the sound file's by more than twice the file's size and 64 MB
    crash           ended by a signal
    dirty           control characters, a message in several lines, or one that does not name the file
    silent          (folders) something is gone that cannot be made again
    ended           (folders) refused for one file of the pool, where training could go on without it
    stuck, other    (kills) neither resumable nor startable; another curve, pool or policy than that of a whole run
    unsaved         (kills) a signal other than -9 ended a training run without its checkpoint

Seeds decide everything but a kill's moment. Exit code 1 if anything but the first three happened.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")                               # this process is forked: no threads in it
sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (2, 1)]
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

import export_onnx
import play
import ppo_selfplay
from cleanmelee import events
from cleanmelee.cli import UserError, run_script
from cleanmelee.dataset import pack, subjects
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.pool import Pool, Ratings
from cleanmelee.recording import write_slp
from cleanmelee.replays import load_replays
from cleanmelee.slp import read_replay
from helpers import FRAMES, metrics, random_observation, tiny
from melee_common import VecEnv, load_checkpoint, load_policy

GOOD = "same", "differs", "refused"
SLACK, ADDRESS_SPACE = 64 * 2 ** 20, 4 * 2 ** 30                            # bytes; the latter beyond what is mapped now

# ---------------------------------------------------------------------------------------------------------------------
# A process for each case
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Nothing:
    """A command line without flags."""


@dataclass
class End:
    code: int | None                                                        # -9: by that signal; None: it hung
    said: str
    peak: int                                                               # bytes
    digest: str                                                             # of what the victim made


class Child:
    """A fork of this process that runs `act()` as a script would: run_script tells what a user is told."""

    def __init__(self, act, log: Path):
        self.log, self.began = log, time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._run(act))
        self.fd = os.pidfd_open(self.pid)

    def _run(self, act) -> int:
        os.setsid()
        output = open(self.log, "w", buffering=1, errors="surrogateescape")
        os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        sys.argv = ["attack"]
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL),
                                (signal.SIGHUP, signal.SIG_DFL)):
            signal.signal(number, handler)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def main(_: Nothing) -> None:
            act()

        code = 0
        try:
            run_script(main, Nothing)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(ValueError, OSError):
            output.flush()
        return code

    def ended(self, seconds: float) -> bool:
        return bool(select.select([self.fd], [], [], max(0., seconds))[0])

    def end(self, seconds: float) -> End:
        """Waits so long, then ends it and all that it started."""
        hung = not self.ended(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self.fd)
        text = self.log.read_text(errors="surrogateescape")
        digest = re.search(r"^digest: (\w+)\n", text, re.M)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return End(None if hung else code, text.replace(digest[0], "") if digest else text, usage.ru_maxrss * 1024,
                   digest[1] if digest else "")


def report(*parts) -> None:
    """By a victim: what it made of the file, in a few bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    print("digest:", digest.hexdigest()[:16])


def judge(end: End, sound: End, size: int, name: str) -> str:
    errors = [line for line in end.said.splitlines() if line.startswith("error: ")]
    unclean = any(not c.isprintable() and c != "\n" for c in end.said) or max(map(len, end.said.split("\n"))) > 700
    if end.code is None:
        return "hang"
    if end.peak > sound.peak + 2 * size + SLACK:
        return "memory"
    if end.code < 0:
        return "crash"
    if end.code not in (0, 2) or "Traceback" in end.said or "Exception ignored" in end.said:
        return "traceback"
    if end.code == 0:
        return "dirty" if unclean else "same" if end.digest == sound.digest else "differs"
    if not errors:
        return "traceback"
    last = end.said.rstrip("\n").rpartition("\n")[2]
    clean = not unclean and errors == [last] and len(last) <= 600 and name in last
    return "refused" if clean else "dirty"


# ---------------------------------------------------------------------------------------------------------------------
# Mutations: each edits a file in place and says what it did
# ---------------------------------------------------------------------------------------------------------------------

NUMBERS = [0, -1, 1, 127, 255, 2 ** 15, 2 ** 16 - 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 63 - 1, 2 ** 63, 10 ** 30,
           float("nan"), float("inf"), -float("inf"), 3e38, 1e308, 1e-40, .5]
ESCAPES = "\x1b[31m\r\n\x07[red]\u202e\udc80 "
ODD = {**{f"{n:.3g}": n for n in NUMBERS}, "none": None, "true": True, "empty text": "", "a word": "word",
       "long text": "x" * 100_000, "escapes": ESCAPES, "many lines": ESCAPES * 3000, "a path": "../../etc/passwd",
       "a list": [], "a dict": {}, "lists": [[1], [2]], "names": {"a": {"b": 1}}}


def laughs():
    """A nest of references: small in a file, 2^40 elements for whoever walks through it."""
    nest = []
    for _ in range(40):
        nest = [nest, nest]
    return nest


TENSORS = {"no tensor": torch.zeros(0), "a nan tensor": torch.tensor(float("nan")), "ints": torch.arange(3),
           "a huge view": torch.zeros(()).expand(30_000, 30_000), "complex": torch.zeros(2, dtype=torch.complex64),
           "sparse": torch.zeros(3, 3).to_sparse(), "laughs": laughs()}


def mutate_bytes(data: bytes, rng) -> tuple[str, bytes]:
    data = bytearray(data or b"\0")
    at, to, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 4, 64, 4096))
    kind = rng.choice(("flip", "cut", "insert", "double", "remove", "move", "number", "zeros"))
    block = data[at:at + n]
    if kind == "flip":
        for _ in range(rng.choice((1, 10, 300))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = rng.randbytes(n)
    elif kind == "double":
        data[at:at] = block
    elif kind == "remove":
        del data[at:at + n]
    elif kind == "move":
        del data[at:at + n]
        data[to:to] = block
    elif kind == "zeros":
        data[at:at + n] = bytes(len(block))
    else:
        value, form = rng.choice(NUMBERS), rng.choice((">B", ">H", "<H", ">i", "<i", ">q", "<q", ">f", "<f", "<d"))
        with contextlib.suppress(struct.error, OverflowError, ValueError):
            packed = struct.pack(form, value if form[1] in "fd" else int(value))
            data[at:at + len(packed)] = packed
        kind += f" {form} {value}"
    return f"{kind} at {at}, {n}", bytes(data)


def any_bytes(path: Path, rng) -> str:
    detail, data = mutate_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return detail


def edit_tree(tree, rng, odd: dict) -> str:
    """Replaces, drops or renames one value in nested dicts and lists."""
    trail = ""
    while True:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        trail += f"/{ascii(key)[:40]}"
        if not (isinstance(tree[key], dict | list) and tree[key]) or rng.random() < .3:
            break
        tree = tree[key]
    how = rng.random()
    if isinstance(tree, dict) and how < .12:
        del tree[key]
        return f"{trail} dropped"
    if isinstance(tree, dict) and how < .2:
        tree[str(key)[:-1]] = tree.pop(key)
        return f"{trail} renamed"
    label = rng.choice(list(odd))
    tree[key] = odd[label]
    return f"{trail} <- {label}"


def json_values(path: Path, rng) -> str:
    """One value of a .json, or in one line of a .jsonl; what json.dumps cannot write stands in as text first."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    k = rng.randrange(len(lines))
    tree = json.loads(lines[k])
    texts = {"deep": "[" * 100_000 + "]" * 100_000, "deep names": '{"a":' * 100_000 + "1" + "}" * 100_000,
             "4000 digits": "9" * 4000, "5000 digits": "9" * 5000, "1e400": "1e400"}
    if rng.random() < .1:
        label = rng.choice(list(ODD))
        lines[k], detail = json.dumps(ODD[label]), f"all <- {label}"
    else:
        detail = edit_tree(tree, rng, ODD | {name: f"@{name}@" for name in texts})
        lines[k] = json.dumps(tree)
        if rng.random() < .1 and isinstance(tree, dict) and tree:
            key, label = rng.choice(list(tree)), rng.choice(list(ODD))
            lines[k], detail = f"{lines[k][:-1]}, {json.dumps(key)}: {json.dumps(ODD[label])}}}", f"{key} twice"
    for name, text in texts.items():
        lines[k] = lines[k].replace(f'"@{name}@"', text)
    path.write_text("\n".join(lines) + "\n")
    return f"line {k + 1} {detail}"


# ------------------------------------------------------------------------------------------------------------ .slp files

def slp_parts(data: bytes) -> tuple[list[bytearray], bytes]:
    """-> events and what follows them."""
    at, end = events.EVENTS_AT, events.EVENTS_AT + int.from_bytes(data[len(events.SLP_HEAD):events.EVENTS_AT], "big")
    sizes, found = {0x35: data[at + 1] + 1}, []
    for command, size in struct.iter_unpack(">BH", data[at + 2:at + 1 + data[at + 1]]):
        sizes[command] = size + 1
    while at < end:
        found.append(bytearray(data[at:at + sizes[data[at]]]))
        at += len(found[-1])
    return found, data[end:]


EVENT_TYPES = {0x37: events.PRE_EVENT, 0x38: events.POST_EVENT, 0x3A: events.FRAME_START_EVENT, 0x3B: events.ITEM_EVENT,
               0x3C: events.BOOKEND_EVENT}


def slp_edit(kind: str):
    def mutate(path: Path, rng) -> str:
        parts, tail = slp_parts(path.read_bytes())
        k = rng.choice((rng.randrange(len(parts)), rng.randrange(min(40, len(parts))), len(parts) - 1))
        event = parts[k]
        form = EVENT_TYPES.get(event[0])
        detail = f"event {k} ({event[0]:#x})"
        if kind == "sizes":
            at = rng.randrange(1, len(parts[0]))
            parts[0][at] = rng.choice((0, 1, 255, rng.randrange(256)))
            detail = f"{at} <- {parts[0][at]}"
        elif kind == "commands":
            event[0] = rng.choice((0, 0x10, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x40, 0xFF))
            detail += f" <- {event[0]:#x}"
        elif kind == "start":
            at, values = rng.randrange(1, len(parts[1])), rng.randbytes(rng.choice((1, 2, 4)))
            parts[1][at:at + len(values)] = values
            detail = f"{at} <- {values.hex()}"
        elif kind in ("frames", "ports", "fields"):
            names = {"frames": ["frame"], "ports": ["port", "follower", "character", "owner"]}.get(kind)
            names = [name for name in (form.names[1:] if form else ()) if not names or name in names] or [None]
            name = rng.choice(names)
            where, at = (form.fields[name][:2]) if name else (np.dtype("u1"), rng.randrange(1, len(event)))
            n = where.itemsize
            value = rng.choice((bytes(n), b"\xff" * n, b"\x7f" + b"\xff" * (n - 1), b"\x80" + bytes(n - 1),
                                rng.randbytes(n), struct.pack(">f", rng.choice((3e38, -1e9, 1e5, 1.5)))[:n]))
            event[at:at + n] = value
            detail += f" {name or at} <- {value.hex()}"
        elif kind == "order":
            n, to = rng.choice((1, 1, 5, 200)), rng.randrange(1, len(parts))
            how = rng.choice(("drop", "double", "move", "shuffle"))
            block = parts[k:k + n]
            if how != "double":
                del parts[k:k + n]
            if how == "shuffle":
                rng.shuffle(block)
                to = k
            if how != "drop":
                parts[to:to] = block
            detail += f" {how} {n} to {to}"
        else:
            detail, tail = slp_tail(tail, rng)
        body = b"".join(parts)
        length = rng.choice(NUMBERS[:10]) & 0xFFFFFFFF if kind == "length" else len(body)
        path.write_bytes(events.SLP_HEAD + struct.pack(">I", length) + body + tail)
        return f"length {length}" if kind == "length" else detail
    return mutate


def slp_tail(tail: bytes, rng) -> tuple[str, bytes]:
    """The metadata, which is UBJSON."""
    how = rng.choice(("gone", "deep", "long", "count", "markers", "other"))
    inside = {"gone": b"", "deep": b"{U\x01a" * 100_000 + b"}" * 100_000, "long": b"{U\x01aSl\x7f\xff\xff\xff",
              "count": b"{U\x01a[$U#l\x7f\xff\xff\xff", "other": b"{U\x07playersSU\x01x}"}.get(how)
    if inside is None:
        broken = bytearray(tail)
        for _ in range(rng.choice((1, 3))):
            broken[rng.randrange(len(broken))] = rng.choice(b"{}[]SUilLdDCZNTF$#\xff\0")
        return how, bytes(broken)
    return how, events.METADATA + inside + b"}" if inside else b""


# ------------------------------------------------------------------------------------------------------------- .pt files

def pt_edit(kind: str):
    def mutate(path: Path, rng) -> str:
        if kind == "entries":
            return pt_entries(path, rng)
        data = torch.load(path, weights_only=True)
        weights = data["policy"]
        name = rng.choice(list(weights))
        shape = list(weights[name].shape)
        if kind == "values":
            detail = edit_tree(data, rng, ODD | TENSORS)
        elif kind == "config":
            detail = edit_tree({"config": data["config"]}, rng, ODD | TENSORS | {
                "wide": [30_000, 30_000], "wider": [10 ** 9], "deep": [1] * 5000, "half": [16.5], "none": [0]})
        elif kind == "weights":
            label = rng.choice(("nan", "inf", "3e38", "-3e38", "1e30", "1e10", "1e5", "1e-40"))
            everywhere = rng.random() < .3
            for each in weights if everywhere else [name]:
                weights[each] = torch.full_like(weights[each], float(label))
            detail = f"{'all' if everywhere else name} <- {label}"
        else:
            label, weights[name] = rng.choice((
                ("turned", weights[name].T), ("flat", weights[name].reshape(-1)), ("double", weights[name].double()),
                ("half", weights[name].half()), ("bool", weights[name].bool()), ("int", weights[name].long()),
                ("one, expanded", torch.zeros(()).expand(shape)), ("too wide", torch.zeros(1).expand(2 ** 40)),
                ("strided", torch.as_strided(weights[name], shape, [0] * len(shape))),
                ("complex", weights[name].to(torch.complex64)), ("meta", torch.empty(shape, device="meta"))))
            detail = f"{name} {label}"
        torch.save(data, path)
        return detail
    return mutate


def pt_entries(path: Path, rng) -> str:
    """The zip file and the pickle in it, below what torch.save would write."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*entries, *[key for key in entries if key.endswith(".pkl")] * 10])
    how = rng.choice(("bytes", "gone", "empty", "renamed", "bomb", "nest", "laughs", "code"))
    bomb = b"\x80\x02" + {"nest": b"]" * 100_000 + b"a" * 99_999, "laughs": pickle.dumps(laughs(), 2)[2:-1],
                          "code": b"cos\nsystem\n(S'kill -9 $PPID'\ntR"}.get(how, b"") + b"."
    if how == "bytes":
        detail, entries[name] = mutate_bytes(entries[name], rng)
        how += " " + detail
    elif how in ("gone", "renamed"):
        content = entries.pop(name)
        entries |= {name + "x": content} if how == "renamed" else {}
    elif how == "empty":
        entries[name] = b""
    elif how != "bomb":
        name = next(key for key in entries if key.endswith(".pkl"))
        entries[name] = bomb
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in entries.items():
            if how == "bomb" and key == name:
                archive.writestr(key, bytes(2 ** 28), zipfile.ZIP_DEFLATED, 1)
            else:
                archive.writestr(key, content)
    return f"{name} {how}"


# ----------------------------------------------------------------------------------------------------------- .onnx files

def splice(model, *nodes) -> None:
    """Puts nodes, which make "after" of "before", between what computes the first output and that output."""
    graph = model.graph
    name = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if x == name else x for x in node.output]
        node.input[:] = ["before" if x == name else x for x in node.input]
    for node in nodes:
        node.output[:] = [name if x == "after" else x for x in node.output]
    graph.node.extend(nodes)


def constant(name: str, value, kind=TensorProto.INT64):
    shape = [len(value)] if isinstance(value, list) else []
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, np.atleast_1d(value)))


def endless() -> list:
    keep, x = helper.make_node("Identity", ["keep"], ["goes_on"]), helper.make_node("Identity", ["x"], ["y"])
    body = helper.make_graph(
        [keep, x], "body", [helper.make_tensor_value_info("i", TensorProto.INT64, []),
                            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
                            helper.make_tensor_value_info("x", TensorProto.INT64, None)],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("y", TensorProto.INT64, None)])
    return [constant("yes", True, TensorProto.BOOL), helper.make_node("Loop", ["", "yes", "before"], ["after"], body=body)]


def giant(size: int) -> list:
    return [constant("shape", [size]), helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Add", ["before", "whole"], ["after"])]


def onnx_edit(kind: str):
    def mutate(path: Path, rng) -> str:
        model = onnx.load_from_string(path.read_bytes())
        graph = model.graph
        node, weights = rng.choice(graph.node), rng.choice(graph.initializer)
        detail = f"{node.op_type} {node.name[:40]}"
        if kind == "metadata":
            known = {prop.key: prop for prop in model.metadata_props}
            prop = known[rng.choice(("program", "schema", "config", "action_repeat", "frame_delay"))]
            values = ("", "0", "-1", "-5", "2", "1e20", "nan", "1" + "0" * 9, "9" * 5000, ESCAPES[:-2], "x" * 100_000, "{}")
            value = rng.choice((None, *values))
            detail = f"{prop.key} <- {ascii(value)[:30]}"
            if value is None:
                model.metadata_props.remove(prop)
            else:
                prop.value = value
        elif kind in ("names", "types", "shapes"):
            value = rng.choice((*graph.input, *graph.output))
            tensor, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
            detail = value.name
            if kind == "names":
                value.name = rng.choice(("state_0", "floats", "x", "", "state_x", value.name + "0"))
                detail += f" <- {value.name}"
            elif kind == "types":
                tensor.elem_type = rng.randrange(17)
                detail += f" <- type {tensor.elem_type}"
            else:
                dim = rng.choice(dims)
                dim.dim_value = size = rng.choice((0, -1, 1, 7, 2 ** 31, 10 ** 10, 2 ** 62))
                detail += f" <- {size}"
                if rng.random() < .2:
                    del dims[:]
        elif kind == "operators":
            other = rng.choice(("Mul", "Div", "Exp", "Shape", "Flatten", "Transpose", "Sigmoid", "Nonsense", "Cast"))
            node.op_type = rng.choice((other, rng.choice(graph.node).op_type))
            detail += f" -> {node.op_type}"
        elif kind == "nodes":
            how = rng.choice(("gone", "turned", "doubled", "moved"))
            detail += f" {how}"
            if how == "turned":
                node.input[:] = list(node.input)[::-1]
            elif how == "doubled":
                graph.node.append(node)
            else:
                graph.node.remove(node)
                graph.node.extend([node] if how == "moved" else [])
        elif kind == "attributes":
            held = rng.choice([x for n in graph.node for x in n.attribute] or [helper.make_attribute("axis", 1)])
            held.i, held.f = rng.choice((0, -1, 9, 2 ** 31, -2 ** 62)), rng.choice((0., float("nan"), 1e38))
            held.ints[:] = [rng.choice((0, -1, 9, 2 ** 31)) for _ in held.ints]
            detail = f"{held.name} <- {held.i}"
        elif kind == "weights":
            label = rng.choice(("3e38", "1e10", "nan", "inf", "short", "dims", "type"))
            detail = f"{weights.name[:40]} {label}"
            if label == "short":
                weights.raw_data = weights.raw_data[:-1]
            elif label == "dims":
                weights.dims[:] = [rng.choice((0, -1, 2 ** 31, 2 ** 62)) for _ in weights.dims]
            elif label == "type":
                weights.data_type = rng.randrange(17)
            else:
                weights.raw_data = struct.pack("<f", float(label)) * (len(weights.raw_data) // 4)
        elif kind == "external":
            place = rng.choice(("weights.bin", "../weights.bin", str(path.parent / "weights.bin"), "/etc/passwd", "/dev/zero"))
            (path.parent / "weights.bin").write_bytes(weights.raw_data)
            weights.ClearField("raw_data")
            weights.data_location = TensorProto.EXTERNAL
            weights.external_data.add(key="location", value=place)
            detail = f"{weights.name[:40]} in {place}"
        elif kind == "programs":
            detail = rng.choice(("endless loop", "giant 2^28", "giant 2^32", "giant 2^40", "giant -1"))
            size = {"2^28": 2 ** 28, "2^32": 2 ** 32, "2^40": 2 ** 40, "-1": -1}.get(detail.split()[1])
            splice(model, *(giant(size) if size else endless()))
        else:
            detail = rng.choice(("too high", "negative", "float", "int8", "text", "wide", "flat", "one of them"))
            cast = {"float": TensorProto.FLOAT, "int8": TensorProto.INT8, "text": TensorProto.STRING}.get(detail)
            splice(model, *([helper.make_node("Cast", ["before"], ["after"], to=cast)] if cast else {
                "too high": [constant("n", 1000), helper.make_node("Add", ["before", "n"], ["after"])],
                "negative": [constant("n", -3), helper.make_node("Mul", ["before", "n"], ["after"])],
                "wide": [helper.make_node("Concat", ["before", "before"], ["after"], axis=1)],
                "flat": [helper.make_node("Flatten", ["before"], ["after"], axis=0)],
                "one of them": [constant("n", [12]), helper.make_node("Gather", ["before", "n"], ["after"], axis=1)]}[detail]))
            if cast:
                graph.output[0].type.tensor_type.elem_type = cast
            else:
                graph.output[0].type.tensor_type.ClearField("shape")
        path.write_bytes(model.SerializeToString())
        return detail
    return mutate


# -------------------------------------------------------------------------------------------------------------- folders

RUN_FILES = ("args.json", "metrics.jsonl", "checkpoints/latest.pt", "checkpoints/initial.pt", "pool/index.json",
             f"pool/main_{FRAMES:012d}.pt")


def put(path: Path, rng) -> str:
    """Something else stands where a file belongs."""
    how = rng.choice(("nothing", "empty", "folder", "full folder", "pipe", "loop", "dangling", "zeros", "text"))
    path.unlink(missing_ok=True)
    if "folder" in how:
        path.mkdir()
        if how == "full folder":
            (path / "file").touch()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in ("loop", "dangling", "zeros"):
        path.symlink_to({"loop": path.name, "dangling": "nowhere", "zeros": "/dev/zero"}[how])
    elif how != "nothing":
        path.write_text({"empty": "", "text": ESCAPES[:-2] * 20}[how], errors="surrogateescape")
    return how


def strangers(run: Path, rng) -> str:
    """Files beside those of a pool."""
    name = rng.choice(("main_" + "9" * 200, "main_" + "0" * 200 + "1", "\x1b[31m_000000000001", "main_" + "\u0661" * 12,
                       "x_000000000001\n", ".._000000000001", "[red]_000000000001", "main_000000000001", "\udc80_000000000001"))
    path = run / "pool" / f"{name}.pt"
    how = rng.choice(("copy", "text", "folder"))
    if how == "copy":
        shutil.copy(run / "checkpoints/initial.pt", path)
    elif how == "text":
        path.write_text("no policy")
    else:
        path.mkdir()
    return f"{ascii(name)[:40]} {how}"


def of_run(file: str, edit):
    return lambda run, rng: edit(run / file, rng)


def folder_mutations() -> dict:
    found = {}
    for file in RUN_FILES:
        name = file.rpartition("/")[2]
        found[f"{name} bytes"] = of_run(file, any_bytes)
        found[f"{name} place"] = of_run(file, put)
        if file.endswith(".pt"):
            for kind in ("values", "config", "weights", "tensors", "entries"):
                found[f"{name} {kind}"] = of_run(file, pt_edit(kind))
        else:
            found[f"{name} values"] = found[f"{name} values again"] = of_run(file, json_values)
    return found | {"lock place": of_run(".lock", put), "pool lock place": of_run("pool/.lock", put), "strangers": strangers}


# ---------------------------------------------------------------------------------------------------------------------
# Victims: what a user does with such a file
# ---------------------------------------------------------------------------------------------------------------------


def sound(well, what: str) -> None:
    if not well:
        raise RuntimeError(f"unsound: {what}")


def learn_from(path: Path) -> None:
    """What bc.py does with a replay."""
    replays, _ = load_replays(str(path), num_workers=0, cache_dir=False, min_frames=10, progress=False)
    data = pack(replays, subjects(replays))
    sound(torch.isfinite(data.obs.floats).all() and torch.isfinite(data.returns).all(), "numbers that are not finite")
    report(replays[0].frames.tobytes(), replays[0].controllers.tobytes(), replays[0].meta["winner"], replays[0].meta["end"])


def play_with(path: Path) -> None:
    """play.py, and for a checkpoint a pool that holds it."""
    record = path.parent / "recorded"
    play.main(play.Args(policy=str(path), opponent="level1", num_games=2, max_episode_frames=100, results="",
                        record=str(record)))
    if path.suffix == ".pt":
        obs, policy = random_observation(1, 4), load_policy(path)[0]
        features, state = policy.features(obs, policy.initial_state(4))
        logits = policy.logits(features, torch.zeros(4, 13, dtype=torch.long))
        sound(all(torch.isfinite(x).all() for x in (logits, *state)), "logits or a state that is not finite")
    games = [read_replay(file) for file in sorted(record.glob("*.slp"))]
    sound(len(games) == 2, f"{len(games)} of 2 games recorded")
    report(*(game.controllers.tobytes() for game in games))


def draw(path: Path) -> None:
    """A pool of a good policy and this one."""
    pool = Pool(path.parent / "pool")
    (pool.directory / "main_000000000001.pt").write_bytes((path.parent / "good.pt").read_bytes())
    (pool.directory / "main_000000000002.pt").write_bytes(path.read_bytes())
    try:
        pool = Pool(pool.directory, action_repeat=2)
        drawn = {pool.sample(np.random.default_rng(seed)) for seed in range(4)}
    except UserError as error:
        raise RuntimeError(f"unsound: the pool ended: {error}") from None
    sound(None not in drawn, "nothing drawn")


def play_and_draw(path: Path) -> None:
    draw(path)
    play_with(path)


def use_pool(run: Path) -> None:
    pool, ratings = Pool(run / "pool", 2, keep_files=True), Ratings()
    policy = load_policy(run.parent / "good.pt")[0]
    drawn = [pool.sample(np.random.default_rng(seed)) for seed in range(3)]
    pool.add(policy, "main", 9000, ratings=ratings)
    pool.prune(set(), ratings)
    report(drawn, Pool(run / "pool").ids(), pool.all_ids())


def resume(run: Path) -> None:
    ppo_selfplay.main(ppo_selfplay.Args(resume=str(run), timesteps=4 * FRAMES))
    report(outcome(run))


def outcome(run: Path) -> tuple:
    """What a run came to, clocks apart: its curve, its pool, its policy."""
    policy = load_checkpoint(run / "checkpoints/latest.pt")["policy"]
    weights = hashlib.sha256(b"".join(p.numpy().tobytes() for p in policy.values())).hexdigest()
    return metrics(run), Pool(run / "pool").all_ids(), weights


def treasure(run: Path) -> dict:
    """What must not get lost of a run: policies, and the rows of its curve."""
    found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("*/*.pt")
             if path.is_file() and path.name != "latest.pt"}
    found |= {"latest.pt": True} if (run / "checkpoints/latest.pt").is_file() else {}
    log = run / "metrics.jsonl"
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            found |= {f"row {row['iteration']}": True} if row["global_step"] == FRAMES * row["iteration"] < 4 * FRAMES else {}
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Material: games, a checkpoint, its export, a run
# ---------------------------------------------------------------------------------------------------------------------


def record_games(folder: Path, length: int = 400) -> None:
    """Four short games of bots, on stages that move and with characters that throw things."""
    names, stages = ("fox", "samus", "peach", "zelda"), ("battlefield", "fountain_of_dreams", "dream_land", "pokemon_stadium")
    names = [name if name in CHARACTERS else "link" for name in names]
    stages = [STAGES.get(name, STAGES["final_destination"]) for name in stages]
    frames, controllers = [], []
    with VecEnv(4, [[CHARACTERS[name], CHARACTERS["falco"]] for name in names], stages, seed=2, max_episode_frames=0,
                bot_kinds=[[BOTS["level9"], BOTS["attacker"]]] * 4) as envs:
        for _ in range(length):
            frames.append(envs.frames.copy())
            controllers.append(envs.controllers.copy())
            envs.step(envs.controllers.copy())
    for k, name in enumerate(names):
        write_slp(folder / f"{k}_{name}.slp", np.array(frames)[:, k], np.array(controllers)[:, k], names=("one", "two"),
                  codes=("ONE#1", "TWO#2"), started=0)


def make_run(folder: Path) -> None:
    ppo_selfplay.main(tiny(folder, "run", 3, backbone="gru", history_size=2))
    log = folder / "run/metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in metrics(folder / "run")))       # no clock moves its bytes
    shutil.copy(folder / "run/checkpoints/initial.pt", folder / "good.pt")


def make_export(folder: Path) -> None:
    make_run(folder)
    export_onnx.LATENCY_STEPS = 20
    export_onnx.main(export_onnx.Args(str(folder / "good.pt"), str(folder / "case.onnx"), steps=4))


@dataclass
class Target:
    make: object                                                            # (folder): writes what is to be broken
    pattern: str                                                            # of it
    name: str                                                               # under which a victim gets it
    victims: list
    mutations: dict
    kept: object = None                                                     # (path) -> what must not get lost
    never_refused: tuple = ()                                               # mutations that nothing may end for


TARGETS = {
    "replays": Target(record_games, "*.slp", "case.slp", [learn_from], {"bytes": any_bytes} | {
        kind: slp_edit(kind) for kind in ("sizes", "commands", "start", "frames", "ports", "fields", "order", "tail",
                                          "length")}),
    "checkpoints": Target(make_run, "good.pt", "case.pt", [play_and_draw], {"bytes": any_bytes} | {
        kind: pt_edit(kind) for kind in ("values", "config", "weights", "tensors", "entries")}),
    "onnx": Target(make_export, "case.onnx", "case.onnx", [play_with], {"bytes": any_bytes} | {
        kind: onnx_edit(kind) for kind in ("metadata", "names", "types", "shapes", "operators", "nodes", "attributes",
                                           "weights", "external", "programs", "actions")}),
    "folders": Target(make_run, "run", "run", [resume, use_pool], folder_mutations(), treasure,
                      tuple(name for name in folder_mutations() if name.startswith(("main_", "strangers")))),
}


@dataclass
class Attack:
    """Cases of one target -> a table and the failures, in `counts` and `failures`."""
    what: str
    folder: Path
    seed: int = 1
    seconds: float = 30.
    replays: Path | None = None
    verbose: bool = False
    counts: dict = field(default_factory=lambda: collections.defaultdict(collections.Counter))
    failures: list = field(default_factory=list)

    def put_down(self, case: int, kind: str, detail: str, how: str, said: str) -> None:
        self.counts[kind][how] += 1
        if self.verbose:
            print(f"--- {kind}: {detail}: {how}\n{said}")
        if how not in GOOD:
            last = ascii(said.rstrip("\n").rpartition("\n")[2])[1:150]
            self.failures.append((case, kind, how))
            print(f"{how}: {self.what} --seed {self.seed} --only {case}   {kind}: {detail}   {last}", flush=True)

    def use(self, victim, path: Path) -> End:
        return Child(lambda: victim(path), self.folder / "log.txt").end(self.seconds)

    def break_files(self, cases) -> None:
        target = TARGETS[self.what]
        material, work = self.folder / "material", self.folder / "work"
        material.mkdir()
        made = Child(lambda: target.make(material), self.folder / "log.txt").end(600)
        sources = sorted(material.glob(target.pattern))
        if made.code or not sources:
            sys.exit(f"no material: {made.said}")
        sources += sorted(self.replays.rglob("*.slp")) if self.replays and self.what == "replays" else []
        unbroken, victims = {}, {victim.__name__: victim for victim in target.victims}

        def lay_out(source: Path) -> Path:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            if (material / "good.pt").exists():
                shutil.copy(material / "good.pt", work)
            return Path((shutil.copytree if source.is_dir() else shutil.copyfile)(source, work / target.name))

        for source in list(sources):
            for name, victim in victims.items():
                end = unbroken[source, name] = self.use(victim, lay_out(source))
                if end.code and source.parent == material:
                    sys.exit(f"{source.name} unbroken: {name} ended with {end.code}: {end.said}")
            if end.code:                                                    # a replay that is refused as it is
                sources.remove(source)
        names = list(target.mutations)
        for case in cases:
            rng = random.Random(f"{self.what} {self.seed} {case}")
            source, kind, name = rng.choice(sources), names[case % len(names)], rng.choice(list(victims))
            path = lay_out(source)
            detail = target.mutations[kind](path, rng)
            kept = target.kept(path) if target.kept else {}
            size = sum(file.stat().st_size for file in work.rglob("*") if file.is_file() and not file.is_symlink())
            end = self.use(victims[name], path)
            how = judge(end, unbroken[source, name], size, path.name)
            if how in GOOD and kept.items() - target.kept(path).items() if target.kept else False:
                how = "silent"
            if how == "refused" and kind in target.never_refused:
                how = "ended"
            self.put_down(case, kind, f"{name} {source.name}: {detail}", how, end.said)

    def kill_runs(self, cases) -> None:
        whole = {}
        for workers in (0, 2):
            args, began = self.run_args(f"whole{workers}", workers), time.perf_counter()
            end = self.use(lambda _, args=args: ppo_selfplay.main(args), self.folder)
            if end.code:
                sys.exit(f"a run that nobody killed ended with {end.code}: {end.said}")
            whole[workers] = time.perf_counter() - began, outcome(self.folder / f"whole{workers}")
        for case in cases:
            rng = random.Random(f"kills {self.seed} {case}")
            workers = rng.choice((0, 2))
            number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            group, moment = rng.random() < .5, rng.random() * whole[workers][0]
            kind = f"{number.name}{', group' if group else ''}{f', {workers} workers' if workers else ''}"
            detail, how, said = f"after {moment:.2f} s", "same", ""
            run, args = self.folder / f"run{case}", self.run_args(f"run{case}", workers)
            child = Child(lambda: ppo_selfplay.main(args), self.folder / "log.txt")
            if not child.ended(moment):
                learning = (run / "metrics.jsonl").exists()
                (os.killpg if group else os.kill)(child.pid, number)
                end, said = (lambda e: (e, e.said))(child.end(self.seconds))
                if end.code is None:
                    how = "hang"
                elif learning and number != signal.SIGKILL and end.code not in (0, 130):
                    how = "unsaved"
                elif number != signal.SIGKILL and "Traceback" in said:
                    how = "traceback"
            else:
                child.end(0)
            for again in (ppo_selfplay.Args(resume=str(run)), args):        # a run with no folder yet is started anew
                if how == "same" and not (end := self.use(lambda _, again=again: ppo_selfplay.main(again), run)).code:
                    how = "same" if outcome(run) == whole[workers][1] else "other"
                    break
                said += end.said
            else:
                how = "stuck" if how == "same" else how
            self.put_down(case, kind, detail, how, said)
            shutil.rmtree(run, ignore_errors=True)

    def run_args(self, name: str, workers: int) -> ppo_selfplay.Args:
        return tiny(self.folder, name, 30, num_workers=workers, save_interval=4, pool_interval=3, history_size=3)

    def table(self) -> None:
        kinds = sorted({how for counts in self.counts.values() for how in counts} - set(GOOD))
        print(f"{self.what}, seed {self.seed}".ljust(32), *(f"{how:>10}" for how in (*GOOD, *kinds)))
        for name, counts in [*self.counts.items(), ("all", sum(self.counts.values(), collections.Counter()))]:
            print(f"  {name}".ljust(32), *(f"{counts[how]:10}" for how in (*GOOD, *kinds)))


def attack(what: str, cases, **options) -> Attack:
    with tempfile.TemporaryDirectory() as folder:
        made = Attack(what, Path(folder), **options)
        (made.kill_runs if what == "kills" else made.break_files)(cases)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*TARGETS, "kills"))
    parser.add_argument("--count", type=int, default=100, help="cases")
    parser.add_argument("--seed", type=int, default=1, help="of the cases")
    parser.add_argument("--only", type=int, help="one case by its number (off: all)")
    parser.add_argument("--seconds", type=float, default=30., help="that a case may take")
    parser.add_argument("--replays", type=Path, help="folder of .slp files to break too (off: none)")
    parser.add_argument("--verbose", action="store_true", help="print what each case said (off: failures alone)")
    args = parser.parse_args()
    cases = range(args.count) if args.only is None else [args.only]
    done = attack(args.what, cases, seed=args.seed, seconds=args.seconds, replays=args.replays, verbose=args.verbose)
    done.table()
    sys.exit(bool(done.failures))
