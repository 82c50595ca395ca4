"""Every public function on every kind of network, in every precision and wrapping: a result, or one `InputError`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from garden import GARDEN
from weightspace.errors import InputError

# Of torch's own compiler, as it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")

PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda module: module,
    "compiled": torch.compile,  # not run: what counts is what it makes of names
    "in parallel": nn.DataParallel,
}
# Of each kind one: dense, convolutional with norms, tied, recurrent, attending, with odd tensors.
QUICK = ("mlp", "residual", "tied-transformer", "recurrent", "tied-layers", "odd-ones")


class Captions(nn.Module):
    """Two inputs, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.norm, self.text = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Embedding(50, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.norm(self.image(image)).relu().mean((2, 3))), self.head(self.text(text).mean(1))


SEVERAL: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "captions": (Captions, (torch.randn(8, 3, 8, 8), torch.arange(40).reshape(8, 5))),
    "translator": (
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        (torch.randn(8, 5, 8), torch.randn(8, 7, 8)),
    ),
}


def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    if name in SEVERAL:
        build, inputs = SEVERAL[name]
        return build(), inputs
    make, example = GARDEN[name]
    return make(), (torch.cat([example] * 4) if len(example) < 8 else example,)


def sweep(name: str, precision: torch.dtype, wrapping: str, folder: Path, zoo: ws.Zoo, sane: ws.SANE) -> list[str]:
    """What every public function that takes a network or weights says: a result, or a refusal in one sentence."""

    def module() -> Any:
        return WRAPPED[wrapping](built(name)[0].to(precision).eval())

    inputs = tuple(value.to(precision) if value.is_floating_point() else value for value in built(name)[1])
    weights = dict(module().state_dict())
    near = [{n: t + 0.01 if t.is_floating_point() else t for n, t in weights.items()} for _ in range(2)]
    broken = {n: torch.full_like(t, torch.nan) if t.is_floating_point() else t for n, t in weights.items()}
    (folder / "nets").mkdir()
    for number, one in enumerate(near):
        torch.save(one, folder / "nets" / f"{number}.pt")
    imported: list[ws.Zoo] = []
    attempts: dict[str, Callable[[], object]] = {
        "trace": lambda: ws.trace_symmetry(module(), *inputs),
        "permute": lambda: _permuted(module(), inputs),
        "initialize": lambda: ws.initialize(module(), sane, anchors=near),
        "initialize on data": lambda: ws.initialize(module(), sane, anchors=[module(), module()], data=inputs),
        "initialize from NaN": lambda: ws.initialize(module(), sane, anchors=[broken], data=inputs),
        "embed": lambda: sane.embed_network(weights),
        "layers": lambda: ws.layers_of(sane, weights),
        "inspect": lambda: ws.inspect_folder(folder / "nets"),
        "open": lambda: ws.open_weights(folder / "nets" / "0.pt").read(),
        "import": lambda: imported.append(ws.import_zoo(folder / "nets", folder / "zoo")),
        "embed a zoo": lambda: sane.embed(imported[0]),
        "reconstruct": lambda: ws.reconstruct(sane, [imported[0].weights(0)], _architecture(imported[0])),
        "generate": lambda: list(ws.generate(sane, anchors=imported[0], count=1, seed=0)),
        "pretrain": lambda: ws.pretrain(
            imported[0], sane.config, ws.TrainConfig(steps=1, window=8, seed=0), out=folder / "sane"
        ),
        "represent": lambda: ws.represent([imported[0]], "s(W)"),
    }
    refusals = []
    for what, attempt in attempts.items():
        try:
            attempt()
        except InputError as refusal:
            assert "\n" not in str(refusal)
            refusals.append(what)
    return refusals


def _permuted(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    symmetry = ws.trace_symmetry(module, *inputs)
    weights = dict(module.state_dict())
    moved = ws.permute(weights, symmetry, ws.random_permutations(symmetry, torch.Generator().manual_seed(0)))
    assert moved.keys() == weights.keys()


def _architecture(zoo: ws.Zoo) -> ws.Architecture:
    return zoo.architectures[str(zoo.table["architecture"].iloc[0])]


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> ws.Zoo:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "nets").mkdir()
    for seed in range(4):
        torch.manual_seed(seed)
        torch.save(
            nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).state_dict(), folder / "nets" / f"{seed}.pt"
        )
    return ws.import_zoo(folder / "nets", folder / "zoo")


@pytest.fixture(scope="module")
def small_sane(small_zoo: ws.Zoo) -> ws.SANE:
    config = ws.SANEConfig(latent_width=8, model_width=16, layers=1, heads=2, projection_width=8)
    training = ws.TrainConfig(steps=2, window=16, batch_size=4, seed=0)
    return ws.pretrain(small_zoo, config, training, out=small_zoo.folder.parent / "sane")


# What nobody can do: NaN anchors, and writing batch norms of a network that nobody knows how to build.
EXPECTED = {"initialize from NaN", "generate"}


@pytest.mark.parametrize("name", [*QUICK, *SEVERAL])
def test_every_function_answers_or_refuses(name: str, tmp_path: Path, small_zoo: ws.Zoo, small_sane: ws.SANE) -> None:
    for precision in PRECISIONS:
        (tmp_path / str(precision)).mkdir()
        refusals = sweep(name, precision, "plain", tmp_path / str(precision), small_zoo, small_sane)
        assert set(refusals) <= EXPECTED, f"{precision}: {refusals}"


@pytest.mark.parametrize("wrapping", ["compiled", "in parallel"])
@pytest.mark.parametrize("name", ["residual", "tied-transformer", "captions"])
def test_what_wraps_a_module_changes_nothing(
    name: str, wrapping: str, tmp_path: Path, small_zoo: ws.Zoo, small_sane: ws.SANE
) -> None:
    assert set(sweep(name, torch.float32, wrapping, tmp_path, small_zoo, small_sane)) <= EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GARDEN if name not in QUICK])
def test_every_function_answers_or_refuses_on_all_of_the_garden(
    name: str, tmp_path: Path, small_zoo: ws.Zoo, small_sane: ws.SANE
) -> None:
    for precision in PRECISIONS:
        for wrapping in WRAPPED if precision == torch.bfloat16 else ("plain",):
            folder = tmp_path / f"{precision} {wrapping}"
            folder.mkdir()
            sweep(name, precision, wrapping, folder, small_zoo, small_sane)


def test_anchors_of_the_same_network_come_under_any_names(small_sane: ws.SANE) -> None:
    model, anchor = built("residual")[0], built("residual")[0].half()
    wrapped = {f"net.model.{name}": tensor for name, tensor in anchor.state_dict().items() if "tracked" not in name}
    assert ws.initialize(model, small_sane, anchors=[wrapped]).share("reinitialized") == 0
