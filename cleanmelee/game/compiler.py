"""How the game's functions are compiled, and where machine code, and the tables made from the data, are kept.

numba keeps machine code on disk, but stamps it by the function's own file: after an edit of what the function calls in
another file it would go on running the old code. So the code lies in folders named by a digest of every source that it
can see: one for the rules, one for the bots, who see the rules too. An edit of a bot compiles the bots, an edit of a
rule compiles everything.
"""

import functools
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, UserProvidedCacheLocator
from numba.core.types import unliteral

PACKAGE = pathlib.Path(__file__).resolve().parent
BOT_FILES = "knowledge.py", "levels.py", "bots.py"     # of these the rules know nothing
GAME, ONLY_BOTS, POLICIES = "the embedded game: rules and bots", "the embedded game: bots", "what policies see and do"
SECONDS = {GAME: 55, ONLY_BOTS: 15, POLICIES: 4}       # what compiling takes on one core


def digest(*parts):
    """Hexadecimal digest of texts and of files' names and contents."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, pathlib.Path) else b""
        name = part.name if isinstance(part, pathlib.Path) else part
        whole.update(f"{name} {len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


SOURCES = [PACKAGE.parent / "frame.py", *sorted(PACKAGE.glob("*.py"))]
RULES_DIGEST = digest(f"Python {sys.version}", f"numba {numba.__version__}", f"numpy {np.__version__}",
                      *(path for path in SOURCES if path.name not in BOT_FILES))
BOTS_DIGEST = digest(RULES_DIGEST, *(path for path in SOURCES if path.name in BOT_FILES))


# ---------------------------------------------------------------------------------------------------------------------
# The place: beside the sources, else the user's own cache, else the folder for temporary files, else none
# ---------------------------------------------------------------------------------------------------------------------

def places():
    """The folders that may be used, the best first. One that other checkouts share has a folder for each of them."""
    own = f"cleanmelee_{digest(str(PACKAGE))}"
    if numba.config.CACHE_DIR:
        yield pathlib.Path(numba.config.CACHE_DIR).absolute() / own
    else:
        yield PACKAGE / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home):                            # "~/.cache" as it stands: there is no home
        yield pathlib.Path(home) / "cleanmelee" / own
    try:
        user = os.getuid() if hasattr(os, "getuid") else 0
        temporary = pathlib.Path(tempfile.gettempdir()) / f"cleanmelee_{user}"
        temporary.mkdir(mode=0o700, exist_ok=True)
        if temporary.stat().st_uid == user:            # what lies there will be run: nobody else may have put it there
            yield temporary / own
    except OSError:                                    # not even that
        return


def is_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return True
    except OSError:
        return False


PLACE = next((place for place in places() if is_writable(place)), None)


def remove_old():
    """Remove what earlier sources left in our place. Who is just reading it has to compile again, no more."""
    for folder in PLACE.glob("*-*"):
        kind, made_of = folder.name.split("-", 1)
        if made_of != {"rules": RULES_DIGEST, "bots": BOTS_DIGEST}.get(kind, made_of):
            shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------------------
# The decorators
# ---------------------------------------------------------------------------------------------------------------------

announced = set()


def announce(what):
    """Before the first function that has to be compiled: say so, since it takes a while, and make room."""
    if announced & {what, GAME}:
        return
    announced.add(what)
    if PLACE is None:
        when = "at every start: no folder to keep it in can be written; NUMBA_CACHE_DIR may name one"
    else:
        when = "once for this version"
        remove_old()
    print(f"compiling {what} (about {SECONDS[what]} s, {when})", file=sys.stderr, flush=True)


@functools.cache
def cannot_keep(reason):
    """Said once, for several hundred functions."""
    print(f"warning: {PLACE}: the compiled game cannot be kept there ({reason}), the next start compiles again; make "
          "room, or name another folder with NUMBA_CACHE_DIR", file=sys.stderr, flush=True)


class OurFolder(CompileResultCacheImpl):
    """Our folder or none: numba would else go on to places of its own, where no digest is looked at."""

    _locator_classes = [UserProvidedCacheLocator]


class Kept(FunctionCache):
    """numba's cache of one function, to which a file that cannot be read or written means that it has to compile."""

    _impl_class = OurFolder

    def __init__(self, function, folder, what):
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:                                           # numba asks for the folder here and never again
            super().__init__(function)
        finally:
            numba.config.CACHE_DIR = before
        self.what = what

    def load_overload(self, sig, target_context):
        try:                                           # numba's own first learns all that it can compile: .2 s, and
            code = self._load_overload(sig, target_context)     # what is compiled already does not need it
        except Exception:                              # an empty or torn file: pickle and LLVM raise what they like
            code = None
            self.forget()
        if code is None:
            announce(self.what)
        return code

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:                       # a full disk, or another process cleans up
            self.forget()
            cannot_keep(error.strerror)

    def forget(self):
        try:
            self.flush()
        except OSError:
            pass


class NotKept(NullCache):
    """Nowhere to keep machine code."""

    def __init__(self, what):
        self.what = what

    def load_overload(self, sig, target_context):
        announce(self.what)


def compiled(function, **options):
    """numba's object for a function. numpy's error model: a division by zero is no exception. Without numba's runtime
    nobody counts who holds an array, which took two fifths of a frame in atomic operations; so no rule may make one."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False, **options)(function)
    for_types = dispatcher.get_call_template

    def for_kinds(types, named):
        """numba would compile a function once for every constant that it is called with: a third of all it compiled."""
        return for_types(tuple(map(unliteral, types)), {name: unliteral(kind) for name, kind in named.items()})

    dispatcher.get_call_template = for_kinds
    return dispatcher


class Compiled:
    """A function that is compiled at its first call. Machine code is kept of what Python calls, and it holds all that
    is called in turn; numba's own object takes half a millisecond to make, and hundreds are only ever seen by those
    that call them."""

    def __init__(self, function, folder, what):
        functools.update_wrapper(self, function)
        self.folder, self.what = folder, what

    @functools.cached_property
    def dispatcher(self):                              # what Python calls
        function = self.__wrapped__
        dispatcher = compiled(function)
        try:
            dispatcher._cache = Kept(function, PLACE / self.folder, self.what) if PLACE else NotKept(self.what)
        except RuntimeError:                           # the folder can no longer be written
            dispatcher._cache = NotKept(self.what)
        return dispatcher

    @functools.cached_property
    def inner(self):                                   # what compiled functions call, which Python need not reach
        return compiled(self.__wrapped__, no_cpython_wrapper=True)

    @property
    def _numba_type_(self):                            # what numba sees in it
        return self.inner._numba_type_

    def __call__(self, *arguments):
        return self.dispatcher(*arguments)


def jit(function):
    """Compiles a rule of the game, at its first call."""
    return Compiled(function, f"rules-{RULES_DIGEST}", GAME)


def bot_jit(function):
    """Compiles a part of a bot. Only the files in BOT_FILES may use it, and no other file may import from them."""
    return Compiled(function, f"bots-{BOTS_DIGEST}", ONLY_BOTS)


def policy_jit(function):
    """Compiles what policies need, in a file that calls nothing compiled of others."""
    return Compiled(function, f"rules-{RULES_DIGEST}", POLICIES)


def machine_code(function, *arguments):
    """The entry of a compiled function for arguments of these types. A call of it skips numba's look at the types,
    which takes longer than a frame of a game; so the caller has to have looked."""
    types = tuple(map(numba.typeof, arguments))
    function.dispatcher.compile(types)
    return function.dispatcher.overloads[types].entry_point
