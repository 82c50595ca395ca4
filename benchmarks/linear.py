"""Whether time and memory grow in proportion to files, tensors and bytes: each twice, the second four times as large.

    python benchmarks/linear.py

Prints seconds of computing and the most memory of a process of its own, beyond that of an empty run; no more than four
times as much (and half again) is linear.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

COMMAND = str(Path(sys.executable).with_name("weightspace"))
TIMES, ALLOWED = 4, 1.5


def files(folder: Path, count: int) -> list[str]:
    """Checkpoints of 16 numbers."""
    folder.mkdir()
    for number in range(count):
        save_file({"w": torch.randn(4, 4)}, folder / f"{number}.safetensors")
    return ["inspect", str(folder)]


def tensors(path: Path, count: int) -> list[str]:
    """A mixture of so many tiny experts."""
    save_file({f"experts.{number}.weight": torch.randn(4, 4) for number in range(count)}, path)
    return ["embed", "any", str(path), "--out", f"{path}.parquet"]


def numbers(path: Path, count: int) -> list[str]:
    """One matrix of so many MiB."""
    save_file({"weight": torch.randn(count, 2**18)}, path)
    return ["inspect", str(path)]


def measure(words: list[str]) -> tuple[float, float]:
    """Seconds of computing and MiB of a command; of two runs the less, as the machine has other work."""
    once, again = _measure(words), _measure([*words, *(["--force"] if "--out" in words else [])])
    return min(once[0], again[0]), min(once[1], again[1])


def _measure(words: list[str]) -> tuple[float, float]:
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, COMMAND, *words], capture_output=True, text=True, check=True)
    status, seconds, mebibytes = done.stdout.split()
    if status != "0":
        raise SystemExit(f"weightspace {' '.join(words)} ended with {status}")
    return float(seconds), float(mebibytes)


def main() -> None:
    """Measure, and say what is not linear."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for make, small in ((files, 1_500), (tensors, 2_500), (numbers, 256)):
            base = measure(make(folder / f"{make.__name__}-none.safetensors", 2))
            sizes = (small, TIMES * small)
            used = [measure(make(folder / f"{make.__name__}-{size}.safetensors", size)) for size in sizes]
            for place_, unit in enumerate(("s", "MiB")):
                first, second = (max(1e-9, one[place_] - base[place_]) for one in used)
                verdict = "linear" if second <= ALLOWED * TIMES * first else "more than linear"
                print(f"{make.__name__}: {first:.1f} {unit} for {sizes[0]:,}, {second:.1f} for {sizes[1]:,}: {verdict}")


if __name__ == "__main__":
    main()
