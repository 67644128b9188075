"""Ways to break a file on purpose, for attack.py: each edits a path in place, driven by a random.Random, and says what
it did. ANYTHING, SLP, PT, ONNX and RUN name them."""

import contextlib
import functools
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from cleanmelee import events
from helpers import FRAMES

NUMBERS = [0, -1, 1, 127, 255, 2 ** 15, 2 ** 16 - 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 63 - 1, 2 ** 63, 10 ** 30,
           float("nan"), float("inf"), -float("inf"), 3e38, 1e308, 1e-40, .5]
ESCAPES = "\x1b[31m\r\n\x07[red]\u202e"
ODD = {f"{n:.3g}": n for n in NUMBERS} | {
    "none": None, "true": True, "nothing": "", "a word": "word", "long text": "x" * 100_000, "escapes": ESCAPES,
    "half a character": "\udc80", "many lines": ESCAPES * 3000, "a path": "../../etc/passwd",
    "a list": [], "a dict": {}, "lists": [[1], [2]], "names": {"a": {"b": 1}}}
LAUGHS = functools.reduce(lambda nest, _: [nest, nest], range(40), [])  # small in a file, 2^40 lists to walk
TENSORS = {"no tensor": torch.zeros(0), "a nan tensor": torch.tensor(float("nan")), "ints": torch.arange(3),
           "a huge view": torch.zeros(()).expand(30_000, 30_000), "complex": torch.zeros(2, dtype=torch.complex64),
           "sparse": torch.zeros(3, 3).to_sparse(), "laughs": LAUGHS}
SIZES = {"wide": [30_000, 30_000], "wider": [10 ** 9], "deep": [1] * 5000, "half": [16.5], "no units": [0]}
JSON_TEXTS = {"deep": "[" * 100_000 + "]" * 100_000, "deep names": '{"a":' * 100_000 + "1" + "}" * 100_000,
              "4000 digits": "9" * 4000, "5000 digits": "9" * 5000, "1e400": "1e400"}  # json.dumps writes none


def broken_bytes(data: bytes, rng) -> tuple[str, bytes]:
    data = bytearray(data or b"\0")
    at, to, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 4, 64, 4096))
    kind = rng.choice(("flip", "cut", "insert", "double", "remove", "move", "number", "zeros"))
    block = data[at:at + n]
    if kind == "flip":
        for _ in range(rng.choice((1, 10, 300))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "number":
        value, form = rng.choice(NUMBERS), rng.choice((">B", ">H", "<H", ">i", "<i", ">q", "<q", ">f", "<f", "<d"))
        with contextlib.suppress(struct.error, OverflowError, ValueError):
            packed = struct.pack(form, value if form[1] in "fd" else int(value))
            data[at:at + len(packed)] = packed
        kind += f" {form} {value}"
    elif kind == "move":
        del data[at:at + n]
        data[to:to] = block
    else:
        end = {"cut": len(data), "insert": at, "double": at}.get(kind, at + n)
        data[at:end] = {"insert": rng.randbytes(n), "double": block, "zeros": bytes(len(block))}.get(kind, b"")
    return f"{kind} at {at}, {n}", bytes(data)


def any_bytes(path: Path, rng) -> str:
    said, data = broken_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    return said


def edit_tree(tree, rng, odd: dict) -> str:
    """Replaces, drops or renames one value in nested dicts and lists."""
    trail = ""
    while True:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        trail += f"/{ascii(key)[:40]}"
        if not (isinstance(tree[key], dict | list) and tree[key]) or rng.random() < .3:
            break
        tree = tree[key]
    how = rng.random() if isinstance(tree, dict) else 1
    if how < .12:
        del tree[key]
        return f"{trail} dropped"
    if how < .2:
        tree[str(key)[:-1]] = tree.pop(key)
        return f"{trail} renamed"
    label = rng.choice(list(odd))
    tree[key] = odd[label]
    return f"{trail} <- {label}"


def json_values(path: Path, rng) -> str:
    """One value of a .json, or of one line of a .jsonl."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    k, how = rng.randrange(len(lines)), rng.random()
    tree, label = json.loads(lines[k]), rng.choice(list(ODD))
    if how < .1:
        said, lines[k] = f"all <- {label}", json.dumps(ODD[label])
    elif how < .2:
        key = rng.choice(list(tree))
        said = f"{key} twice: {label}"
        lines[k] = f"{json.dumps(tree)[:-1]}, {json.dumps(key)}: {json.dumps(ODD[label])}}}"
    else:
        said = edit_tree(tree, rng, ODD | {name: f"@{name}@" for name in JSON_TEXTS})
        lines[k] = functools.reduce(lambda text, name: text.replace(f'"@{name}@"', JSON_TEXTS[name]), JSON_TEXTS,
                                    json.dumps(tree))
    path.write_text("\n".join(lines) + "\n")
    return f"line {k + 1} {said}"


# ----------------------------------------------------------------------------------------------------------- .slp files

EVENT_TYPES = {0x37: events.PRE_EVENT, 0x38: events.POST_EVENT, 0x3A: events.FRAME_START_EVENT, 0x3B: events.ITEM_EVENT,
               0x3C: events.BOOKEND_EVENT}
FIELDS = {"frames": {"frame"}, "ports": {"port", "follower", "character", "owner"}}
COMMANDS = (0, 0x10, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x40, 0xFF)
TAILS = {"gone": b"", "deep": b"{U\x01a" * 100_000 + b"}" * 100_000, "long": b"{U\x01aSl\x7f\xff\xff\xff",
         "count": b"{U\x01a[$U#l\x7f\xff\xff\xff", "other": b"{U\x07playersSU\x01x}"}      # in UBJSON


def slp_edit(kind: str, path: Path, rng) -> str:
    data = path.read_bytes()
    at, end = events.EVENTS_AT, events.EVENTS_AT + int.from_bytes(data[len(events.SLP_HEAD):events.EVENTS_AT], "big")
    sizes, parts, tail = {0x35: data[at + 1] + 1}, [], data[end:]
    for command, size in struct.iter_unpack(">BH", data[at + 2:at + 1 + data[at + 1]]):
        sizes[command] = size + 1
    while at < end:
        parts.append(bytearray(data[at:at + sizes[data[at]]]))
        at += len(parts[-1])
    k = rng.choice((rng.randrange(len(parts)), rng.randrange(min(40, len(parts))), len(parts) - 1))
    event, length = parts[k], None
    form, said = EVENT_TYPES.get(event[0]), f"event {k} ({event[0]:#x})"
    if kind == "sizes":
        at = rng.randrange(1, len(parts[0]))
        parts[0][at] = rng.choice((0, 1, 255, rng.randrange(256)))
        said = f"{at} <- {parts[0][at]}"
    elif kind == "commands":
        event[0] = rng.choice(COMMANDS)
        said += f" <- {event[0]:#x}"
    elif kind == "start":
        at, value = rng.randrange(1, len(parts[1])), rng.randbytes(rng.choice((1, 2, 4)))
        parts[1][at:at + len(value)] = value
        said = f"{at} <- {value.hex()}"
    elif kind in ("frames", "ports", "fields"):
        names = [name for name in (form.names[1:] if form else ()) if name in FIELDS.get(kind, form.names)]
        name = rng.choice(names or [""])
        where, at = form.fields[name][:2] if name else (np.dtype("u1"), rng.randrange(1, len(event)))
        n = where.itemsize
        value = rng.choice((bytes(n), b"\xff" * n, b"\x7f" + b"\xff" * (n - 1), b"\x80" + bytes(n - 1),
                            rng.randbytes(n), struct.pack(">f", rng.choice((3e38, -1e9, 1e5, 1.5)))[:n]))
        event[at:at + n] = value
        said += f" {name or at} <- {value.hex()}"
    elif kind == "order":
        n, to = rng.choice((1, 1, 5, 200)), rng.randrange(1, len(parts))
        how = rng.choice(("drop", "double", "move", "mix"))
        block = parts[k:k + n]
        del parts[k:k if how == "double" else k + n]
        if how == "mix":
            rng.shuffle(block)
            to = k
        parts[to:to] = [] if how == "drop" else block
        said += f" {how} {n} to {to}"
    elif kind == "length":
        length = rng.choice(NUMBERS[:10]) & 0xFFFFFFFF
        said = f"{length}"
    else:
        said = rng.choice((*TAILS, "markers"))
        if said in TAILS:
            tail = events.METADATA + TAILS[said] + b"}" if TAILS[said] else b""
        else:
            tail = bytearray(tail)
            for _ in range(rng.choice((1, 3))):
                tail[rng.randrange(len(tail))] = rng.choice(b"{}[]SUilLdDCZNTF$#\xff\0")
    body = b"".join(parts)
    path.write_bytes(events.SLP_HEAD + struct.pack(">I", len(body) if length is None else length) + body + tail)
    return said


# ------------------------------------------------------------------------------------------------------------ .pt files

def pt_edit(kind: str, path: Path, rng) -> str:
    data = torch.load(path, weights_only=True)
    weights = data["policy"]
    name = rng.choice(list(weights))
    one, shape = weights[name], list(weights[name].shape)
    if kind == "values":
        said = edit_tree(data, rng, ODD | TENSORS)
    elif kind == "config":
        tree = {"config": data["config"]}
        said = edit_tree(tree, rng, ODD | TENSORS | SIZES)
        data |= tree
    elif kind == "weights":
        value = rng.choice(("nan", "inf", "3e38", "-3e38", "1e30", "1e10", "1e5", "1e-40"))
        everywhere = rng.random() < .3
        for each in weights if everywhere else [name]:
            weights[each] = torch.full_like(weights[each], float(value))
        said = f"{'all' if everywhere else name} <- {value}"
    else:
        said, weights[name] = rng.choice((
            ("turned", one.mT if len(shape) > 1 else one.flip(0)), ("flat", one.reshape(-1)), ("double", one.double()),
            ("half", one.half()), ("bool", one.bool()), ("int", one.long()), ("complex", one.to(torch.complex64)),
            ("strided", torch.as_strided(one, shape, [0] * len(shape))), ("meta", torch.empty(shape, device="meta")),
            ("expanded", torch.zeros(()).expand(shape)), ("too wide", torch.zeros(1).expand(2 ** 40))))
        said = f"{name} {said}"
    torch.save(data, path)
    return said


def pt_entries(path: Path, rng) -> str:
    """The zip file and the pickle in it, below what torch.save would write. Code that runs would kill its process."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(key for key in entries if key.endswith(".pkl"))
    name, how = rng.choice([*entries, *[pickled] * 10]), rng.choice(
        ("bytes", "gone", "empty", "renamed", "bomb", "nest", "laughs", "code"))
    bombs = {"nest": b"]" * 100_000 + b"a" * 99_999, "laughs": pickle.dumps(LAUGHS, 2)[2:-1],
             "code": b"cos\nsystem\n(S'kill -9 $PPID'\ntR"}
    if how == "bytes":
        said, entries[name] = broken_bytes(entries[name], rng)
        how += " " + said
    elif how in bombs:
        entries[pickled] = b"\x80\x02" + bombs[how] + b"."
    elif how != "bomb":
        content = entries.pop(name)
        entries |= {"gone": {}, "empty": {name: b""}, "renamed": {name + "x": content}}[how]
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in entries.items():
            if how == "bomb" and key == name:
                archive.writestr(key, bytes(2 ** 28), zipfile.ZIP_DEFLATED, 1)
            else:
                archive.writestr(key, content)
    return f"{name} {how}"


# ---------------------------------------------------------------------------------------------------------- .onnx files

METADATA_VALUES = ("", "0", "-1", "-5", "2", "1e20", "nan", "1" + "0" * 9, "9" * 5000, ESCAPES, "x" * 100_000, "{}")
CASTS = {"float": TensorProto.FLOAT, "int8": TensorProto.INT8, "text": TensorProto.STRING}
GIANTS = {"giant 2^28": 2 ** 28, "giant 2^32": 2 ** 32, "giant 2^40": 2 ** 40, "giant -1": -1}


def spliced(kind: str) -> list:
    """Nodes that make "after" of the actions "before"."""
    def number(name, value, kind=TensorProto.INT64):
        shape = [len(value)] if isinstance(value, list) else []
        tensor = helper.make_tensor(name, kind, shape, np.atleast_1d(value))
        return helper.make_node("Constant", [], [name], value=tensor)

    node, info = helper.make_node, helper.make_tensor_value_info
    if kind in CASTS:
        return [node("Cast", ["before"], ["after"], to=CASTS[kind])]
    if kind in GIANTS:
        return [number("size", [GIANTS[kind]]), node("ConstantOfShape", ["size"], ["zeros"]),
                node("ReduceSum", ["zeros"], ["sum"], keepdims=0), node("Cast", ["sum"], ["n"], to=TensorProto.INT64),
                node("Add", ["before", "n"], ["after"])]
    if kind == "endless loop":
        body = helper.make_graph(
            [node("Identity", ["keep"], ["on"]), node("Identity", ["x"], ["y"])], "body",
            [info("i", TensorProto.INT64, []), info("keep", TensorProto.BOOL, []), info("x", TensorProto.INT64, None)],
            [info("on", TensorProto.BOOL, []), info("y", TensorProto.INT64, None)])
        return [number("yes", True, TensorProto.BOOL), node("Loop", ["", "yes", "before"], ["after"], body=body)]
    return {"too high": [number("n", 1000), node("Add", ["before", "n"], ["after"])],
            "negative": [number("n", -3), node("Mul", ["before", "n"], ["after"])],
            "wide": [node("Concat", ["before", "before"], ["after"], axis=1)],
            "flat": [node("Flatten", ["before"], ["after"], axis=0)],
            "one of them": [number("n", [12]), node("Gather", ["before", "n"], ["after"], axis=1)]}[kind]


def onnx_edit(kind: str, path: Path, rng) -> str:
    model = onnx.load_from_string(path.read_bytes())
    graph = model.graph
    node, weights = rng.choice(graph.node), rng.choice(graph.initializer)
    border = rng.choice([*graph.input, *graph.output])
    said, tensor = f"{node.op_type} {node.name[:40]}", border.type.tensor_type
    if kind == "metadata":
        prop = rng.choice([prop for prop in model.metadata_props if prop.key in (
            "program", "schema", "config", "action_repeat", "frame_delay")])
        said, value = prop.key, rng.choice((None, *METADATA_VALUES))
        prop.value = value or ""
        if value is None:
            model.metadata_props.remove(prop)
        said += f" <- {ascii(value)[:30]}"
    elif kind == "names":
        said, border.name = border.name, rng.choice(("state_0", "floats", "x", "", "state_x", border.name + "0"))
        said += f" <- {border.name}"
    elif kind == "types":
        tensor.elem_type = rng.randrange(17)
        said = f"{border.name} <- type {tensor.elem_type}"
    elif kind == "shapes":
        size = rng.choice((None, 0, -1, 1, 7, 2 ** 31, 10 ** 10, 2 ** 62))
        rng.choice(tensor.shape.dim).dim_value = size or 0
        if size is None:
            del tensor.shape.dim[:]
        said = f"{border.name} <- {size}"
    elif kind == "operators":
        other = rng.choice(("Mul", "Div", "Exp", "Shape", "Flatten", "Transpose", "Sigmoid", "Nonsense", "Cast"))
        node.op_type = rng.choice((other, rng.choice(graph.node).op_type))
        said += f" -> {node.op_type}"
    elif kind == "nodes":
        how, inputs = rng.choice(("gone", "turned", "doubled", "moved")), list(node.input)
        graph.node.extend([node] if how in ("doubled", "moved") else [])
        node.input[:] = inputs[::-1] if how == "turned" else inputs
        if how in ("gone", "moved"):
            graph.node.remove(node)
        said += f" {how}"
    elif kind == "attributes":
        held = rng.choice([attribute for each in graph.node for attribute in each.attribute])
        held.i, held.f = rng.choice((0, -1, 9, 2 ** 31, -2 ** 62)), rng.choice((0., float("nan"), 1e38))
        held.ints[:] = [rng.choice((0, -1, 9, 2 ** 31)) for _ in held.ints]
        said = f"{held.name} <- {held.i}"
    elif kind == "weights":
        how = rng.choice(("3e38", "1e10", "nan", "inf", "short", "dims", "type"))
        if how == "dims":
            weights.dims[:] = [rng.choice((0, -1, 2 ** 31, 2 ** 62)) for _ in weights.dims]
        elif how == "type":
            weights.data_type = rng.randrange(17)
        else:
            raw = weights.raw_data
            weights.raw_data = raw[:-1] if how == "short" else struct.pack("<f", float(how)) * (len(raw) // 4)
        said = f"{weights.name[:40]} {how}"
    elif kind == "external":
        said = rng.choice(("weights.bin", "../weights.bin", f"{path.parent}/weights.bin", "/etc/passwd", "/dev/zero"))
        (path.parent / "weights.bin").write_bytes(weights.raw_data)
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=said)
    else:
        said = rng.choice((*GIANTS, "endless loop") if kind == "programs" else (
            *CASTS, "too high", "negative", "wide", "flat", "one of them"))
        output, nodes = graph.output[0], spliced(said)
        for each in graph.node:
            each.output[:] = ["before" if name == output.name else name for name in each.output]
        nodes[-1].output[:] = [output.name]
        graph.node.extend(nodes)
        output.type.tensor_type.elem_type = CASTS.get(said, TensorProto.INT64)
        output.type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    return said


# -------------------------------------------------------------------------------------------------------------- folders

RUN_FILES = ("args.json", "metrics.jsonl", "checkpoints/latest.pt", "checkpoints/initial.pt", "pool/index.json",
             f"pool/main_{FRAMES:012d}.pt")
PLACES = {"loop": "loop", "dangling": "nowhere", "zeros": "/dev/zero"}      # links and where they lead
STRANGERS = ("main_" + "9" * 200, "main_" + "0" * 200 + "1", "\x1b[31m_000000000001", "main_" + "\u0661" * 12,
             "x_000000000001\n", ".._000000000001", "[red]_000000000001", "main_000000000001", "\udc80_000000000001")


def put(path: Path, rng) -> str:
    """Something else stands where a file belongs."""
    how = rng.choice(("nothing", "empty", "text", "folder", "full folder", "pipe", *PLACES))
    path.unlink(missing_ok=True)
    if "folder" in how:
        (path / "inside" if how == "full folder" else path).mkdir(parents=True)
    elif how == "pipe":
        os.mkfifo(path)
    elif how in PLACES:
        path.symlink_to(path.name if how == "loop" else PLACES[how])
    elif how != "nothing":
        path.write_text(ESCAPES * 20 if how == "text" else "")
    return how


def strangers(run: Path, rng) -> str:
    """A file beside those of a pool."""
    name, how = rng.choice(STRANGERS), rng.choice(("copy", "text", "folder"))
    path = run / "pool" / f"{name}.pt"
    if how == "copy":
        shutil.copy(run / "checkpoints/initial.pt", path)
    elif how == "text":
        path.write_text("no policy")
    else:
        path.mkdir()
    return f"{ascii(name)[:40]} {how}"


def of(file: str, edit):
    return lambda run, rng: edit(run / file, rng)


ANYTHING = {"bytes": any_bytes}
SLP = ANYTHING | {kind: functools.partial(slp_edit, kind) for kind in (
    "sizes", "commands", "start", "frames", "ports", "fields", "order", "tail", "length")}
PT = ANYTHING | {kind: functools.partial(pt_edit, kind) for kind in ("values", "config", "weights", "tensors")} | {
    "entries": pt_entries}
ONNX = ANYTHING | {kind: functools.partial(onnx_edit, kind) for kind in (
    "metadata", "names", "types", "shapes", "operators", "nodes", "attributes", "weights", "external",
    "programs", "actions")}
JSON = ANYTHING | {"values": json_values, "more values": json_values}
RUN = {f"{Path(file).name} {kind}": of(file, edit) for file in RUN_FILES
       for kind, edit in ((PT if file.endswith(".pt") else JSON) | {"place": put}).items()} | {
    "run's lock": of(".lock", put), "pool's lock": of("pool/.lock", put), "strangers": strangers}
