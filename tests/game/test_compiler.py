"""Machine code is kept between starts, and never that of other sources: on a small package with the game's own."""

import ast
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import pytest

from cleanmelee.game import compiler, tables

ROOT = pathlib.Path(__file__).resolve().parents[2]
GAME = ROOT / "cleanmelee" / "game"

FILES = {
    "__init__.py": "",
    "frame.py": "FIRST = 1\n",
    "game/__init__.py": "",
    "game/motion.py": "from small.game.compiler import jit\n\n\n@jit\ndef fall(y):\n    return y - 2\n",
    "game/step.py": "from small.frame import FIRST\nfrom small.game.compiler import jit\n"
                    "from small.game.motion import fall\n\n\n@jit\ndef step(y):\n    return fall(y) + FIRST\n",
    "game/bots.py": "from small.game.compiler import bot_jit\nfrom small.game.step import step\n\n\n"
                    "@bot_jit\ndef think(y):\n    return step(y) * 10\n"}
PLAY = "import numba; before = numba.config.CACHE_DIR\n" \
       "from small.game.step import step; from small.game.bots import think\n" \
       "assert numba.config.CACHE_DIR == before; print(step(5), think(5))"
ALL, BOTS = "compiling the embedded game: rules and bots (about ", "compiling the embedded game: bots (about "


class Small:
    """A package with a rule, its caller and a bot in three files, in a folder of its own."""

    def __init__(self, folder):
        self.root, self.home, self.temporary = folder / "checkout", folder / "home", folder / "temporary"
        self.game = self.root / "small" / "game"
        self.kept = self.game / "__pycache__"
        self.game.mkdir(parents=True)
        self.temporary.mkdir()
        for name, text in FILES.items():
            (self.root / "small" / name).write_text(text)
        shutil.copy(GAME / "compiler.py", self.game)

    def edit(self, name, old, new):
        path = self.root / "small" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def play(self, full=False, more="", **environment):
        """One start of a program, full: on a disk without room, more: code that follows -> what it computes, what it
        says."""
        def no_room():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

        clean = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
        clean |= dict(HOME=str(self.home), TMPDIR=str(self.temporary), PYTHONDONTWRITEBYTECODE="1")
        result = subprocess.run([sys.executable, "-c", PLAY + more], cwd=self.root, env=clean | environment,
                                text=True, capture_output=True, preexec_fn=no_room if full else None)
        assert result.returncode == 0, result.stderr
        return result.stdout.split(), result.stderr

    def folders(self, kind):
        return sorted(self.kept.glob(f"{kind}-*"))


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


def test_an_edit_is_seen_wherever_its_caller_stands_and_old_code_goes(small):
    values, said = small.play()
    assert values == ["4", "40"] and said.startswith(ALL) and said.count("\n") == 1
    assert small.play() == (["4", "40"], "")           # nothing to compile, nothing said
    for name, old, new, values in (("game/motion.py", "y - 2", "y - 3", ["3", "30"]),
                                   ("frame.py", "1", "2", ["4", "40"])):
        before = small.folders("rules") + small.folders("bots")
        small.edit(name, old, new)
        assert small.play()[0] == values and not any(folder.exists() for folder in before)
        assert len(small.folders("rules")) == len(small.folders("bots")) == 1


def test_a_start_loads_what_it_calls_and_nothing_that_only_compiling_needs(small):
    look = "\nimport sys; from small.game.motion import fall\n" \
           "print('inner' in vars(fall), 'numba.np.linalg' in sys.modules)"
    assert small.play(more=look)[0] == ["4", "40", "True", "True"]
    assert small.play(more=look)[0] == ["4", "40", "False", "False"]


def test_a_function_is_compiled_once_for_all_constants(small):
    small.edit("game/step.py", "fall(y) + FIRST", "fall(y) + fall(y=1) - fall(2) + FIRST")
    look = "\nfrom small.game.motion import fall; print(len(fall.inner.overloads))"
    assert small.play(more=look)[0] == ["3", "30", "1"]


def test_an_edit_of_a_bot_compiles_the_bots_alone(small):
    small.play()
    rules, bots = contents(small.folders("rules")[0]), small.folders("bots")
    small.edit("game/bots.py", "* 10", "* 100")
    values, said = small.play()
    assert values == ["4", "400"] and said.startswith(BOTS) and contents(small.folders("rules")[0]) == rules
    assert len(small.folders("bots")) == 1 and small.folders("bots") != bots
    assert small.play() == (["4", "400"], "")


@pytest.mark.parametrize("kind, length", [("nbi", 0), ("nbi", 40), ("nbc", 40)])
def test_an_empty_or_torn_file_means_to_compile_again(small, kind, length):
    small.play()
    files = list(small.kept.rglob(f"*.{kind}"))
    assert len(files) == 2                             # of what Python calls, which holds what that calls in turn
    for path in files:
        path.write_bytes(path.read_bytes()[:length])
    values, said = small.play()
    assert values == ["4", "40"] and said.startswith(ALL)
    assert small.play() == (["4", "40"], "")           # and it is mended


def test_a_full_disk_is_told_once(small):
    values, said = small.play(full=True)
    assert values == ["4", "40"] and said.startswith(ALL) and said.count("\n") == 2
    assert f"warning: {small.kept}: the compiled game cannot be kept there (" in said
    values, said = small.play()
    assert values == ["4", "40"] and said.startswith(ALL) and said.count("\n") == 1
    assert small.play() == (["4", "40"], "")


def block(folder):
    """Nobody can write into a folder that is a file: not root either, who may write into a read-only one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("")


def test_a_checkout_that_cannot_be_written_uses_the_home_and_leaves_others_alone(small):
    block(small.kept)
    cache = small.home / ".cache" / "cleanmelee"
    other = cache / "cleanmelee_of_another_checkout" / "rules-0123456789abcdef"
    other.mkdir(parents=True)
    assert small.play()[0] == ["4", "40"] and small.play() == (["4", "40"], "")
    small.edit("game/motion.py", "y - 2", "y - 3")
    assert small.play()[0] == ["3", "30"]
    own, = (folder for folder in cache.iterdir() if folder != other.parent)
    assert other.exists() and len(list(own.glob("rules-*"))) == len(list(own.glob("bots-*"))) == 1


def test_without_a_home_it_uses_the_folder_for_temporary_files_and_without_that_it_plays_all_the_same(small):
    block(small.kept)
    block(small.home)
    assert small.play()[0] == ["4", "40"] and small.play() == (["4", "40"], "")
    own, = small.temporary.iterdir()
    assert own.stat().st_mode & 0o77 == 0              # nobody else may put code there
    shutil.rmtree(own)
    block(own)
    for _ in range(2):
        values, said = small.play()
        assert values == ["4", "40"] and said.startswith(ALL) and "at every start" in said


def test_numbas_own_setting_names_the_place(small, tmp_path):
    chosen = tmp_path / "chosen"
    assert small.play(NUMBA_CACHE_DIR=str(chosen))[0] == ["4", "40"]
    assert small.play(NUMBA_CACHE_DIR=str(chosen)) == (["4", "40"], "")
    assert len(list(chosen.glob("*/rules-*/*/*.nbi"))) == 1 and not small.kept.exists()


def test_the_rules_know_nothing_of_the_bots():
    """Or an edit of a bot would leave stale rules: their digest does not cover the bots' files."""
    for path in GAME.glob("*.py"):
        text, bots = path.read_text(), path.name in compiler.BOT_FILES
        assert bots or path.name in ("__init__.py", "compiler.py") or "bot_jit" not in text, path.name
        assert not bots or "import jit" not in text, path.name
        if not bots and path.name != "__init__.py":
            named = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
            assert not named & {f"cleanmelee.game.{name.removesuffix('.py')}" for name in compiler.BOT_FILES}, path.name


def test_the_tables_are_kept_and_a_torn_file_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PLACE", tmp_path)
    (tmp_path / "tables-0123456789abcdef.npz").write_text("of other sources")
    made = tables.load_tables()
    kept, = tmp_path.iterdir()
    monkeypatch.setattr(tables, "build_tables", lambda: pytest.fail("they were kept"))
    for table, again in zip(made, tables.load_tables(), strict=True):
        assert table.tobytes() == again.tobytes() and table.dtype == again.dtype
    monkeypatch.setattr(tables, "build_tables", lambda: made)
    for length in (0, 100, kept.stat().st_size // 2):
        kept.write_bytes(kept.read_bytes()[:length])
        assert tables.load_tables() is made
        assert len(list(tmp_path.iterdir())) == 1 and kept.stat().st_size > 10_000
    monkeypatch.setattr(tables, "PLACE", None)
    assert tables.load_tables() is made
