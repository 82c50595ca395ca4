"""What does `diff` cost, and `inspect` on top of it? `python benchmarks/diff.py`.

Two files of a billion numbers (`--numbers`) are read once, then compared: equal, rounded, noised and of strangers; and
a folder of a thousand checkpoints (`--checkpoints`) of a million numbers each is inspected. Each runs in a process of
its own, whose memory is what the system says it had at most. Writes `docs/tables/diff.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch

from weightspace.outputs import to_json
from weightspace.weights.files import write_weights
from weightspace.weights.values import Weights

MEASURED = """
import json, sys, time
import torch
torch.set_num_threads(1)
{imports}
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
# Of this process alone: what is asked of the system by `getrusage` is its parent's as well.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, int(peak.split()[1]) / 2**10, said]))
"""
IMPORTS = """
from weightspace.weights.files import open_weights, numbers_of
from weightspace.analysis.pairs.diffing import diff_networks
from weightspace.analysis.inspecting.studying import study_folder
"""
READ = """
for name in sys.argv[1:]:
    weights = open_weights(name)
    for tensor, meta in weights.meta().items():
        for start in range(0, meta.numel(), 2**22):
            numbers_of(weights, tensor, start, min(start + 2**22, meta.numel()))
said = ''
"""
DIFF = """
said = diff_networks(*sys.argv[1:]).verdict.kind
"""
INSPECT = """
said = study_folder(sys.argv[1]).summary()
"""


def forget(*paths: Path) -> None:
    """Let the system forget files that it keeps in memory."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(code: str, *words: object) -> dict[str, Any]:
    """Seconds, MiB and what was said of some code in a process of its own."""
    program = [sys.executable, "-c", MEASURED.format(imports=IMPORTS, code=code), *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    seconds, mebibytes, said = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, "MiB": mebibytes, "said": said}


def transformer(numbers: int, seed: int) -> Weights:
    """Matrices as a transformer of 24 layers has them, of so many numbers in all."""
    generator = torch.Generator().manual_seed(seed)
    width = max(64, round((numbers / (24 * 12)) ** 0.5 / 64) * 64)
    shapes = {"qkv": (3 * width, width), "out": (width, width), "up": (4 * width, width), "down": (width, 4 * width)}
    return {
        f"layers.{layer}.{name}.weight": torch.randn(shape, generator=generator) * 0.02
        for layer in range(24)
        for name, shape in shapes.items()
    }


def large(folder: Path, numbers: int, repeats: int) -> dict[str, Any]:
    """Reading two files once, and comparing them, the fastest of some runs."""
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    weights = transformer(numbers, 0)
    write_weights(first, weights)
    generator = torch.Generator().manual_seed(2)
    makers = {
        "noised": lambda: {n: t + 1e-4 * torch.randn(t.shape, generator=generator) for n, t in weights.items()},
        "rounded and back": lambda: {name: tensor.bfloat16().float() for name, tensor in weights.items()},
        "one layer trained": lambda: {n: 1.01 * t if n.startswith("layers.3.") else t for n, t in weights.items()},
        "a stranger": lambda: transformer(numbers, 1),
    }
    result: dict[str, Any] = {"numbers": sum(tensor.numel() for tensor in weights.values())}
    for name, make in makers.items():
        write_weights(second, make())
        result[name] = {}
        for where in ("from the disk", "from memory"):
            runs = []
            for code in (READ, DIFF) * repeats:
                if where == "from the disk":
                    forget(first, second)
                runs.append(measured(code, first, second))
            reading, comparing = (min(runs[part::2], key=lambda run: run["seconds"]) for part in (0, 1))
            ratio = comparing["seconds"] / reading["seconds"]
            result[name][where] = {**comparing, "read": reading["seconds"], "ratio": ratio}
        print(name, result[name], flush=True)
    return result


def many(folder: Path, count: int) -> dict[str, Any]:
    """A folder of checkpoints of a million numbers: families of ten, each parted from the one before by noise."""
    shapes = {"a.weight": (800, 800), "b.weight": (400, 800), "c.weight": (50, 800)}
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}
    for number in range(count):
        fresh = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        last = weights
        weights = {n: 0.05 * t if number % 10 == 0 else last[n] + 0.002 * t for n, t in fresh.items()}
        write_weights(folder / f"{number:05d}.safetensors", weights)
    each = sum(tensor.numel() for tensor in weights.values())
    result = {"checkpoints": count, "numbers_each": each, **measured(INSPECT, folder)}
    print(result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=1_000_000_000)
    parser.add_argument("--checkpoints", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/tables/diff.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"made": date.today().isoformat()}
    with tempfile.TemporaryDirectory() as folder:
        result["inspect"] = many(Path(folder), arguments.checkpoints)
    with tempfile.TemporaryDirectory() as folder:
        result["diff"] = large(Path(folder), arguments.numbers, arguments.repeats)
    arguments.out.write_text(to_json(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
