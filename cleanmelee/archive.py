"""torch's files looked through before torch reads them. Its `weights_only` runs no code of a file's, but a file may
still ask for gigabytes (compressed zeros, an empty buffer, a tensor by its size alone) or for the end of the process
(tuples in tuples as a key, which Python hashes recursively). What `torch.save` writes of plain values needs none of
that."""

import io
import pickletools
import zipfile

MOST_OPCODES = 2 ** 21                                                  # a run with a thousand ids in its pool: 30,000
DEEPEST = 20                                                            # values in values; a checkpoint has 6
OPCODES = {                                                             # of protocol 2
    "PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"}
STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {kind}Storage" for kind in STORAGES)}


def open_archive(content: bytes) -> io.BytesIO:
    """What `torch.load` may read in place of a file's content: its entries, packed anew, so that torch sees what was
    looked at. ValueError, or one of the many exceptions of zipfile and pickletools: the file is not of that kind."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w") as copy:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        twice = len({entry.filename for entry in entries}) < len(entries)
        if not stored or twice or sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("compressed, or larger inside than outside")
        for entry in entries:
            data = archive.read(entry)
            if entry.filename.lower().endswith("data.pkl"):                 # torch finds it in any case of letters
                check_pickle(data)
            copy.writestr(entry.filename, data)
    packed.seek(0)
    return packed


def check_pickle(data: bytes) -> None:
    """Raises ValueError for a pickle that is more than plain values and tensors, or any exception for one that is none.
    Nothing is built here: a value is how deeply tuples are nested in it."""
    stack: list[int] = []
    marks: list[int] = []                                                   # where in the stack
    memo: dict[int, int] = {}
    for k, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in OPCODES or opcode.name == "GLOBAL" and argument not in GLOBALS or k == MOST_OPCODES:
            raise ValueError(f"holds {opcode.name} {argument}, and not plain values and tensors alone")
        before = opcode.stack_before
        if opcode.name == "MARK":
            marks.append(len(stack))
        elif opcode.name.endswith("BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name.endswith("BINGET"):
            stack.append(memo[argument])
        else:
            first = len(stack) - len(before)
            if pickletools.markobject in before:
                first = marks.pop() - before.index(pickletools.markobject)
            depth = 1 + max(stack[first:], default=0) if opcode.name.startswith("TUPLE") else 0
            if first < 0 or depth > DEEPEST:
                raise ValueError("tuples in tuples in tuples")
            stack[first:] = [depth] * len(opcode.stack_after)
