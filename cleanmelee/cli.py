"""The command line of every script: a user's mistakes in one line, names, numbers and their ranges."""

import math
import os
import sys

import tyro

from cleanmelee.frame import CHARACTERS, STAGES


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, with which file or value, and what to do."""


def lookup(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise UserError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(table))}")
    return table[name]


def parse_names(text: str, table: dict[str, int], what: str, presets: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """"fox,marth" or the name of a preset -> the names, each of them in `table`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    names = [name for part in names for name in (presets or {}).get(part, (part,))]
    if not names:
        raise UserError(f"no {what} given: choose among {', '.join(sorted(table))}")
    for name in names:
        lookup(table, name, what)
    return names


CHARACTER_PRESETS = {"low_tiers": ("mewtwo", "gameandwatch", "link", "ganondorf", "zelda"),
                     "top_tiers": ("fox", "falco", "marth", "sheik", "captain_falcon"), "all": tuple(CHARACTERS)}
STAGE_PRESETS = {"all": tuple(STAGES)}


def check_numbers(args, **limits: tuple[float, float]) -> None:
    """limits: flag -> (lowest, highest). Every number among the arguments must be finite, and every seed a seed."""
    for name, value in vars(args).items():
        low, high = limits.get(name, (0, 2 ** 63 - 1) if name == "seed" else (-math.inf, math.inf))
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or not low <= value <= high:
            rule = f"must be at least {low:g}" if high == math.inf else f"must lie between {low:g} and {high:g}"
            rule = rule if name in limits or name == "seed" else "must be finite"
            raise UserError(f"--{name.replace('_', '-')} {value}: {rule}")


def run_script(main, args_type) -> None:
    """Parses the command line and runs main(args); a user's mistake ends in one line and exit code 2."""
    args = tyro.cli(args_type, description=sys.modules[main.__module__].__doc__)
    try:
        main(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)                                                         # `| head` closed our output: nothing to say it to
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}; make room or choose another place",
              file=sys.stderr)
        sys.exit(2)
