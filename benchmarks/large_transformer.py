"""A transformer of 500 M parameters: memory and time of each command: `python benchmarks/large_transformer.py`.

Written here: Llama's shapes in bfloat16 (values drawn at random), in shards with an index; a copy of which a layer was
changed; and a LoRA of rank 16. Every command runs in a process of its own, whose memory is what the system says it had
at most; time stands beside that of reading the files once. Writes `docs/tables/large_transformer.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from weightspace.outputs import to_json
from weightspace.weights.safetensors_files import write_in_turn

WIDTH, INNER, VOCABULARY, KEYS, RANK = 1_280, 3_456, 32_000, 320, 16
LAYERS = 27
RUN = """
import sys
from weightspace.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = int(end.code or 0)
# Of this process alone: what is asked of the system by `getrusage` is its parent's as well.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(f"peak {int(peak.split()[1]) / 2**20:.3f}", file=sys.stderr)
sys.exit(status)
"""
READ = """
import sys
from pathlib import Path
for path in sys.argv[1:]:
    for file in sorted(Path(path).glob("*.safetensors")):
        with file.open("rb", buffering=0) as held:
            while held.read(2**24):
                pass
"""


def shapes_of_layer(number: int) -> dict[str, tuple[int, ...]]:
    """Of one block."""
    place = f"model.layers.{number}"
    attention = {"q_proj": (WIDTH, WIDTH), "k_proj": (KEYS, WIDTH), "v_proj": (KEYS, WIDTH), "o_proj": (WIDTH, WIDTH)}
    inner = {"gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "down_proj": (WIDTH, INNER)}
    norms = {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    return {
        **{f"{place}.self_attn.{name}.weight": shape for name, shape in attention.items()},
        **{f"{place}.mlp.{name}.weight": shape for name, shape in inner.items()},
        **{f"{place}.{name}.weight": shape for name, shape in norms.items()},
    }


def shards(layers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """What is in which file: embeddings in the first, four blocks in each of the others."""
    parts = {
        "model-embeddings.safetensors": {
            "model.embed_tokens.weight": (VOCABULARY, WIDTH),
            "model.norm.weight": (WIDTH,),
        }
    }
    for number in range(layers):
        parts.setdefault(f"model-{number // 4:02d}.safetensors", {}).update(shapes_of_layer(number))
    return parts


def write_network(folder: Path, layers: int, changed: str = "") -> int:
    """Write a network, tensor by tensor; of `changed`, the tensors of that layer are others. Returns its parameters."""
    folder.mkdir()
    weight_map: dict[str, str] = {}
    for file, shapes in shards(layers).items():
        kinds = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
        write_in_turn(folder / file, kinds, values(shapes, changed), {})
        weight_map |= dict.fromkeys(shapes, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(torch.Size(shape).numel() for shapes in shards(layers).values() for shape in shapes.values())


def values(shapes: Mapping[str, tuple[int, ...]], changed: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors one after the other, each drawn from its own seed."""
    for number, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(number)
        tensor = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        if changed and f".{changed}." in name:
            tensor += 0.01 * torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        yield name, tensor.bfloat16()


def write_lora(folder: Path, layers: int) -> None:
    """An adapter of the queries and values of every block."""
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    for number in range(layers):
        for module, outputs in (("q_proj", WIDTH), ("v_proj", KEYS)):
            place = f"base_model.model.model.layers.{number}.self_attn.{module}"
            generator = torch.Generator().manual_seed(number)
            tensors[f"{place}.lora_A.weight"] = 0.02 * torch.randn(RANK, WIDTH, generator=generator)
            tensors[f"{place}.lora_B.weight"] = 0.02 * torch.randn(outputs, RANK, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def seconds_to_read(*paths: Path) -> float:
    """Of reading files once."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", READ, *map(str, paths)], check=True)
    return time.perf_counter() - began


def measured(words: list[str]) -> dict[str, float]:
    """Seconds and the peak of memory in GiB of a command."""
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(words)}: {ended.stderr[-500:]}")
    peak = next(line for line in reversed(ended.stderr.splitlines()) if line.startswith("peak "))
    return {"seconds": round(time.perf_counter() - began, 1), "peak_gib": float(peak.split()[1])}


def main() -> None:
    """Write the files, run the commands, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out", type=Path, default=Path("docs/tables/large_transformer.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base, tuned, adapter, out = (Path(place) / name for name in ("base", "tuned", "adapter", "out"))
        parameters = write_network(base, arguments.layers)
        write_network(tuned, arguments.layers, changed="layers.0")
        write_lora(adapter, arguments.layers)
        once, twice = seconds_to_read(base), seconds_to_read(base, tuned)
        commands = {
            "inspect BASE": (["inspect", str(base)], once),
            "diff BASE TUNED": (["diff", str(base), str(tuned)], twice),
            "diff BASE ADAPTER": (["diff", str(base), str(adapter)], once),
            "merge BASE ADAPTER": (["merge", str(base), str(adapter), "--out", f"{out}.safetensors"], once),
            "layers any BASE": (["layers", "any", str(base), "--out", f"{out}.png"], once),
            "embed any BASE": (["embed", "any", str(base), "--out", f"{out}.parquet"], once),
        }
        size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        about: dict[str, Any] = {"date": str(date.today()), "parameters": parameters, "bytes": size, "rows": []}
        for name, (words, read) in commands.items():
            found = measured(words)
            about["rows"].append({"command": name, **found, "times_reading": round(found["seconds"] / read, 1)})
            arguments.out.write_text(to_json(about, indent=1) + "\n")
            print(about["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
