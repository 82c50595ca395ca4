"""Embed a network of a billion weights: how long it takes, and how much memory the process has at its peak.

    python benchmarks/embed_large.py [--weights 1000000000] [--folder FOLDER]

The file, 4 bytes a weight, is written tensor by tensor into a temporary folder first. A process of its own embeds it.
Target: a peak below 3 GB. Prints one JSON object as its last line; takes a few minutes.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

WIDTH = 4_096


def write_file(path: Path, weights: int) -> int:
    """A safetensors file of square linear layers; by hand, as the library wants it whole. Returns its weights."""
    layers = max(1, round(weights / WIDTH**2))
    size = 4 * WIDTH**2
    header = {
        f"layers.{number}.weight": {
            "dtype": "F32",
            "shape": [WIDTH, WIDTH],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(layers)
    }
    text = json.dumps(header).encode()
    values = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) * WIDTH**-0.5
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for _ in range(layers):
            file.write(values.numpy().data)
    return layers * WIDTH**2


def embed(path: Path) -> None:
    """In a process of its own: embed, and print seconds and the peak of memory in MB."""
    from weightspace.autoencoder.config import SANEConfig
    from weightspace.autoencoder.network import Network
    from weightspace.autoencoder.provenance import Provenance
    from weightspace.autoencoder.sane import SANE
    from weightspace.autoencoder.training.config import TrainConfig
    from weightspace.corpus.config import PreparationConfig
    from weightspace.corpus.preparation import Preparation
    from weightspace.weights.files import open_weights

    torch.set_num_threads(1)
    preparation = Preparation(config=PreparationConfig(token_width=288))
    provenance = Provenance(training=TrainConfig())
    network = Network(SANEConfig(), 288, window=64).eval()
    sane = SANE(network=network, preparation=preparation, provenance=provenance)
    started = time.perf_counter()
    found = sane.embed_network(open_weights(path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "weights": found.weights, "tokens": found.tokens}))


def measure(path: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--embed", str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=1_000_000_000)
    parser.add_argument("--folder", type=Path, help="where the file goes while it is needed")
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.embed:
        embed(options.embed)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "large.safetensors"
        written = write_file(path, options.weights)
        found = measure(path)
    print(json.dumps({**found, "written": written, "weights_per_second": found["weights"] / found["seconds"]}))


if __name__ == "__main__":
    main()
