"""How fast a zoo of 1,000 members x 25 epochs of cnn-s opens, and how fast its weights come from a warm cache.

    python benchmarks/zoo_io.py [--members 1000] [--epochs 25]

Targets: opens in under 2 seconds, iterates at more than 200 MB/s. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from weightspace.supervised import stack_weights
from weightspace.zoo.growing.networks import cnn_s
from weightspace.zoo.growing.recipes import cnn_recipe
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo


def write_zoo(folder: Path, members: int, epochs: int) -> None:
    """Untrained networks: what is in the weights does not matter here."""
    recipe, writer = cnn_recipe("cnn-s", 1, 10), ZooWriter(folder)
    for activation in ("relu", "tanh"):
        architecture = recipe.architecture(activation)
        stack = stack_weights([cnn_s().state_dict()] * epochs)
        for member in range(0, members, 2):
            name = f"member-{member + (activation == 'tanh'):04d}"
            table = pd.DataFrame(
                {"member": name, "epoch": range(epochs), "test_accuracy": 0.5, "activation": activation}
            )
            writer.add(architecture, {key: tensor + 0.0 for key, tensor in stack.items()}, table)
    writer.finish({})


def open_in_a_new_process(folder: Path) -> float:
    """Seconds of `Zoo.open` itself, imports apart."""
    code = (
        "import sys, time\nfrom weightspace.zoo.zoo import Zoo\nimport pyarrow.parquet, torch\n"
        "start = time.perf_counter()\nZoo.open(sys.argv[1])\nprint(time.perf_counter() - start)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    )


def iterate(zoo: Zoo, size: int | None) -> float:
    """MB/s over all weights, every number read once."""
    start, read = time.perf_counter(), 0
    for piece in zoo.stacks() if size is None else zoo.batches(size):
        for tensor in piece.stack.values():
            tensor.sum()
            read += tensor.nbytes
    return read / 1e6 / (time.perf_counter() - start)


def read_rows(zoo: Zoo, count: int) -> float:
    """Milliseconds to read one checkpoint by itself."""
    rows = range(0, len(zoo), max(1, len(zoo) // count))
    start = time.perf_counter()
    for row in rows:
        zoo.weights(row)
    return 1_000 * (time.perf_counter() - start) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "zoo"
        folder.mkdir()
        start = time.perf_counter()
        write_zoo(folder, given.members, given.epochs)
        written = time.perf_counter() - start
        zoo = Zoo.open(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        iterate(zoo, None)
        results = {
            "checkpoints": len(zoo),
            "bytes": size,
            "write_seconds": written,
            "open_seconds": open_in_a_new_process(folder),
            "shards_mb_per_second": iterate(zoo, None),
            "batches_of_64_mb_per_second": iterate(zoo, 64),
            "milliseconds_per_single_row": read_rows(zoo, 200),
        }
    for name, value in results.items():
        print(f"{name}: {value:,.3f}" if isinstance(value, float) else f"{name}: {value:,}")
    print(json.dumps({"benchmark": "zoo_io", "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
