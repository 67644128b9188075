"""The command line of every script: flags with their ranges, lists of names, and a user's mistakes in one line."""

import dataclasses
import errno
import math
import os
import sys
import types
import typing
from dataclasses import dataclass

import tyro

from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.signals import end_now, interrupt, on_request
from cleanmelee.terminal import printable

CHARACTER_PRESETS = {
    "low_tiers": ("mewtwo", "gameandwatch", "link", "ganondorf", "zelda"),
    "top_tiers": ("fox", "falco", "marth", "sheik", "captain_falcon"),
    "all": tuple(CHARACTERS)}
STAGE_PRESETS = {"all": tuple(STAGES)}


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, with which file or value, and what to do."""


named: set[str] = set()                                                     # flags of the command line (`flags_in`)


def run_script(main, args_type) -> None:
    """Parses the command line and runs main(args). A user's mistake ends in one line and exit code 2; Ctrl-C, SIGTERM
    and SIGHUP raise KeyboardInterrupt, unless main has its own way, and end in exit code 130."""
    on_request(interrupt, end_now)
    try:
        args = tyro.cli(args_type, description=sys.modules[main.__module__].__doc__)
        expand_home(args)
        named.update(flags_in(sys.argv[1:], to_flags(args)))
        main(args)
    except UserError as error:
        print(f"error: {printable(error, 2000)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)                                                   # `| head` closed our output: nothing to say it to
    except OSError as error:
        advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "allow it"
        line = f"{error.filename or 'output'}: {error.strerror or error}; {advice} or choose another place"
        print(f"error: {printable(line, 2000)}", file=sys.stderr)
        sys.exit(2)
    finally:
        named.clear()
        on_request(end_now, end_now)                                        # what the interpreter does now is not ours


# ---------------------------------------------------------------------------------------------------------------------
# Flags and their ranges
# ---------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of a flag, both allowed: `num_games: Annotated[int, Range(1, 65536)] = 8`."""
    low: float
    high: float = math.inf


@dataclass(frozen=True)
class Place:
    """Marks a flag that may name a file or a folder: `~` in it is the user's home: `runs_dir: Annotated[str, PATH]`."""


PATH = Place()
SEEDS = Range(0, 2 ** 63 - 1)
SHARE = Range(0, 1)
COUNT = Range(1, 10 ** 9)
COUNT_OR_OFF = Range(0, 10 ** 9)
POSITIVE = Range(1e-9)
AT_LEAST_0 = Range(0)


def check_ranges(args) -> None:
    """Raises UserError for the first number of a flat Args, or of the groups in it, that is not finite or out of its
    Range."""
    ranges = typing.get_type_hints(type(args), include_extras=True)
    for name, value in vars(args).items():
        if dataclasses.is_dataclass(value):
            check_ranges(value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limits = next((x for x in getattr(ranges.get(name), "__metadata__", ()) if isinstance(x, Range)), None)
        check_number(name, value, limits)


def expand_home(args) -> None:
    """`~` in flags that are a PATH, in place, as a shell does it where no `=` stands before it. Raises UserError where
    there is no home."""
    kinds = typing.get_type_hints(type(args), include_extras=True)
    for name, value in vars(args).items():
        if dataclasses.is_dataclass(value):
            expand_home(value)
        elif PATH in getattr(kinds[name], "__metadata__", ()):
            whole = os.path.expanduser(value)
            if whole == value and value.split("/")[0] == "~":
                raise UserError(f"{as_flag(name)} {value}: there is no home folder; give the whole path")
            setattr(args, name, whole)


def check_number(name: str, value: float, limits: Range | None) -> None:
    """Raises UserError if `value`, of the flag or field `name`, is not finite or lies outside `limits`."""
    low, high = (limits.low, limits.high) if limits else (-math.inf, math.inf)
    finite = isinstance(value, int) or math.isfinite(value)                 # an int may be larger than any float
    if finite and low <= value <= high:
        return
    if not finite:
        rule = "must be finite"
    elif high == math.inf:
        rule = f"must be at least {low:g}"
    else:
        rule = f"must lie between {low:g} and {high:g}"
    raise UserError(f"{as_flag(name)} {printable(value, 60)}: {rule}")


def as_flag(name: str) -> str:
    """num_games -> --num-games"""
    return "--" + name.replace("_", "-")


def flags_in(words: list[str], flags: dict) -> set[str]:
    """["--num-games=4", "--no-anneal-lr"] -> {"num_games", "anneal_lr"}: those of `flags` that are named."""
    names = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    return (names | {name.removeprefix("no_") for name in names}) & flags.keys()


def to_flags(args) -> dict:
    """An Args as one flat dict of plain values, the groups in it among them: what args.json and checkpoints hold."""
    flags = {}
    for name, value in vars(args).items():
        flags |= to_flags(value) if dataclasses.is_dataclass(value) else {name: value}
    return flags


def from_flags(args_type, flags: dict):
    """The Args that `to_flags` made `flags` of. Raises UserError for a flag that it does not have, and for a value that
    is not of the flag's type, choices or range: files can be edited, and no tyro has seen these."""
    flags, kinds = dict(flags), typing.get_type_hints(args_type)
    values = {}
    for field in dataclasses.fields(args_type):
        if dataclasses.is_dataclass(kinds[field.name]):
            group = kinds[field.name]
            inside = {x.name for x in dataclasses.fields(group)} & flags.keys()
            values[field.name] = from_flags(group, {name: flags.pop(name) for name in inside})
        elif field.name in flags:
            values[field.name] = flags.pop(field.name)
            check_kind(field.name, values[field.name], kinds[field.name])
    if flags:
        raise UserError(f"unknown flags: {', '.join(map(as_flag, flags))}")
    args = args_type(**values)
    check_ranges(args)
    return args


def check_kind(name: str, value, kind) -> None:
    """Raises UserError unless `value` is what the annotation `kind` of the flag `name` asks for: int, float (an int
    will do), bool, str, None, a Literal, or one of several of those."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    literals = [each for each in kinds if typing.get_origin(each) is typing.Literal]
    choices = [choice for each in literals for choice in typing.get_args(each)]
    allowed = {*kinds, *((int,) if float in kinds else ())}
    if type(value) in allowed and "\0" not in str(value) or value in choices and isinstance(value, str):
        return
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    wanted = [repr(choice) for choice in choices] + [names[each] for each in kinds if each in names]
    raise UserError(f"{as_flag(name)} {printable(repr(value), 60)}: must be {' or '.join(wanted)}")


# ---------------------------------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------------------------------

def lookup(table: dict[str, int], name: str, what: str) -> int:
    """table[name], or a UserError that lists what there is. what: "character", "stage", "bot"."""
    if not isinstance(name, str) or name not in table:
        raise UserError(f"unknown {what} {printable(repr(name), 60)}: choose one of {', '.join(sorted(table))}")
    return table[name]


def parse_names(text: str, table: dict[str, int], what: str,
                presets: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """"fox,marth" or the name of a preset -> the names, each of them in `table`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    names = [name for part in names for name in (presets or {}).get(part, (part,))]
    if not names:
        raise UserError(f"no {what} given: choose among {', '.join(sorted(table))}")
    for name in names:
        lookup(table, name, what)
    return names


def parse_characters(text: str) -> list[str]:
    """"fox,marth", "low_tiers", "all" ... -> names of characters that the embedded game plays."""
    return parse_names(text, CHARACTERS, "character", CHARACTER_PRESETS)


def parse_matchups(character: str, opponent_character: str, stage: str) -> list[tuple[str, str, str]]:
    """Three flags -> every (own character, opponent's character, stage). An empty opponent_character is the own one."""
    own = parse_characters(character)
    stages = parse_names(stage, STAGES, "stage", STAGE_PRESETS)
    opponents = parse_characters(opponent_character) if opponent_character else [""]
    return [(a, b or a, s) for a in own for b in opponents for s in stages]
