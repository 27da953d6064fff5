"""Tiny searches that are ended at random moments: the record must equal the kept weights, and each can be finished.

    python benchmarks/ends.py --ends 60 --seed 0
    python benchmarks/ends.py --ends 20 --way SIGKILL --way SIGINT     # these ways only

Every way in its turn: budgets, a target, requests, signals, a killed worker; about one in three is ended while its
finalists are trained again. After the end and after the rest of the search every record is compared with the metadata
of its weights, and in the end every number with a search that was never ended. Prints a line per end, a table, and
what differs; exits with 1 on any difference. Needs the tests' folder beside it.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ends import WAYS, Peace, end_and_finish, shared_ray

WITHOUT_FINALISTS = ("kill", "target")  # the finalists may be others then
SHARE_CONFIRMED = 1 / 3


def main() -> None:
    """All ends, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ends", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated; all by default")
    parser.add_argument("--keep", type=Path, help="keep the runs in this new folder")
    options = parser.parse_args()
    ways = options.way or [way for way in WAYS if way != "gpu_hours" or not torch.cuda.is_available()]
    with tempfile.TemporaryDirectory() as where:
        folder = options.keep or Path(where)
        folder.mkdir(parents=True, exist_ok=True)
        failed = end_all(folder, ways, options.ends, options.seed)
    sys.exit(1 if failed else 0)


def end_all(folder: Path, ways: list[str], ends: int, seed: int) -> int:
    """End searches in all ways by turns; how many of them failed."""
    count, bad, moments = Counter[str](), Counter[str](), Counter[str]()
    rng = random.Random(seed)
    with shared_ray():
        peace = Peace.search(folder / "peace")
        print(f"the search in peace: {len(peace.rows)} rows in {peace.rows[-1].run_seconds:.0f} s", flush=True)
        for at in range(ends):
            way = ways[at % len(ways)]
            confirmed = way not in WITHOUT_FINALISTS and rng.random() < SHARE_CONFIRMED
            own = folder / f"{at:03d}"
            own.mkdir()
            started = time.monotonic()
            try:
                ended = end_and_finish(way, own, peace, f"{seed} {at}", confirmed=confirmed)
                how, problems = ended.how, ended.problems
            except Exception:  # the others are to be ended, too
                how, problems = way, traceback.format_exc().splitlines()
            count[way] += 1
            bad[way] += bool(problems)
            moments[way] += confirmed
            verdict = f"{len(problems)} DIFFERENCES" if problems else "equal"
            when = "among the finalists, " if confirmed else ""
            print(f"{at:3d}  {when}{how}: {verdict}, {time.monotonic() - started:.0f} s", flush=True)
            for problem in problems:
                print(f"       {problem}", flush=True)
    print("\n| way | ends | among the finalists | with differences |\n|---|---|---|---|")
    for way in ways:
        print(f"| {way} | {count[way]} | {moments[way]} | {bad[way]} |")
    print(f"| all | {count.total()} | {moments.total()} | {bad.total()} |")
    return bad.total()


if __name__ == "__main__":
    main()
