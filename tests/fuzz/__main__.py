"""Fuzz parsers with random seeds.

python -m tests.fuzz MINUTES [PARSER...]          all of them, in turns
python -m tests.fuzz --seed SEED PARSER           the one round that failed
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import random
import sys
import time
import traceback
from collections.abc import Callable

import tests.fuzz

Fuzz = Callable[[int, float | None, int | None], None]

# Long enough that what a fuzzer starts (a child process, a server) costs little beside it.
_TURN = 10.0


def parsers() -> dict[str, Fuzz]:
    """Return what fuzzes each parser: the modules of this package that have `fuzz`."""
    names = [module.name for module in pkgutil.iter_modules(tests.fuzz.__path__) if module.name != "__main__"]
    modules = {name: importlib.import_module(f"tests.fuzz.{name}") for name in names}
    return {name: module.fuzz for name, module in sorted(modules.items()) if hasattr(module, "fuzz")}


def run(name: str, fuzz: Fuzz, seed: int, seconds: float | None, rounds: int | None) -> bool:
    """Run one turn; on a fault, print it and what repeats it."""
    try:
        fuzz(seed, seconds, rounds)
    except Exception:
        traceback.print_exc()
        print(f"FAULT in {name}; the note above says the seed: python -m tests.fuzz --seed SEED {name}")
        return False
    return True


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; 1 if there was a fault."""
    known = parsers()
    reader = argparse.ArgumentParser(prog="./dev fuzz", description="Fuzz parsers with random seeds.")
    reader.add_argument("minutes", nargs="?", type=float, metavar="MINUTES", help="for how long, in all")
    reader.add_argument(
        "parsers", nargs="*", metavar="PARSER", help=f"which: {', '.join(known)}; default: all"
    )
    reader.add_argument("--seed", type=int, help="one round with this seed, instead of MINUTES")
    if "--seed" in arguments:
        arguments = ["0", *arguments]
    asked = reader.parse_intermixed_args(arguments)
    chosen = {name: known[name] for name in asked.parsers or known if name in known}
    if asked.minutes is None or set(asked.parsers) - known.keys():
        reader.error(f"give MINUTES, and parsers out of: {', '.join(known)}")
    if asked.seed is not None:
        return 0 if all(run(name, fuzz, asked.seed, None, 1) for name, fuzz in chosen.items()) else 1
    faults = 0
    end = time.monotonic() + 60 * asked.minutes
    while (left := end - time.monotonic()) > 0 and chosen:
        turn = min(_TURN, left / len(chosen))
        for name, fuzz in list(chosen.items()):
            seed = random.SystemRandom().getrandbits(48)
            print(f"{name}: seed {seed}, {turn:.0f} s", flush=True)
            if not run(name, fuzz, seed, turn, None):
                faults += 1
                # The same fault again and again tells nothing new.
                del chosen[name]
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
