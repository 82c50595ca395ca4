"""The published method in its straightforward form, to measure against; from its description, without its slips.

Permute a network tensor by tensor, tokenise all of it, keep 201 copies of every window in a file; read files, draw
two of the copies, and take each through the model by itself; embed a whole network in one pass.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from weightspace.symmetry.axes import Permutations, Symmetry, axis_index, groups_of, random_permutations
from weightspace.weights.values import Weights

SWEEPS = 100
COPIES = 200
PROJECTION = 30


def plain_permute(weights: Weights, symmetry: Symmetry, permutations: Permutations) -> Weights:
    moved = {}
    for name, tensor in weights.items():
        for number, axis in enumerate(symmetry.axes[name]):
            if groups_of((axis,)):
                tensor = tensor.index_select(number, axis_index(axis, permutations))
        moved[name] = tensor
    return moved


def plain_tokenize(weights: Weights, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, masks and positions, layer by layer."""
    tokens: list[Tensor] = []
    masks: list[Tensor] = []
    positions: list[Tensor] = []
    for name, tensor in weights.items():
        if "weight" not in name and "running" not in name:
            continue
        rows = tensor.reshape(len(tensor), -1)
        bias = name.replace("weight", "bias")
        if bias != name and bias in weights:
            rows = torch.cat([rows, weights[bias][:, None]], 1)
        chunks = -(-rows.shape[1] // width)
        padded = nn.functional.pad(rows, (0, chunks * width - rows.shape[1]))
        mask = nn.functional.pad(torch.ones_like(rows, dtype=torch.bool), (0, chunks * width - rows.shape[1]))
        tokens.append(padded.reshape(-1, width))
        masks.append(mask.reshape(-1, width))
        row = torch.arange(len(rows)).repeat_interleave(chunks)
        positions.append(torch.stack([torch.full_like(row, len(positions)), row], 1))
    layer, row = torch.cat(positions).T
    return torch.cat(tokens), torch.cat(masks), torch.stack([torch.arange(len(row)), layer, row], 1)


def plain_match(weights: Weights, reference: Weights, symmetry: Symmetry, generator: torch.Generator) -> Permutations:
    """One network at a time: all groups in every sweep, in random order, until a sweep changes nothing."""
    permutations = {group: torch.arange(size) for group, size in symmetry.groups.items()}
    places: dict[str, list[tuple[str, int]]] = {group: [] for group in symmetry.groups}
    for name, axes in symmetry.axes.items():
        for number, axis in enumerate(axes):
            for group in groups_of((axis,)):
                places[group].append((name, number))
    groups = list(symmetry.groups)
    for _ in range(SWEEPS):
        progress = False
        for group in (groups[number] for number in torch.randperm(len(groups), generator=generator)):
            size = symmetry.groups[group]
            cost = torch.zeros(size, size)
            for name, number in places[group]:
                moved = weights[name]
                for other, axis in enumerate(symmetry.axes[name]):
                    if other != number and groups_of((axis,)):
                        moved = moved.index_select(other, axis_index(axis, permutations))
                left, right = (own.movedim(number, 0).reshape(size, -1) for own in (reference[name], moved))
                cost += left @ right.T
            _, columns = linear_sum_assignment(cost.numpy(), maximize=True)
            found = torch.from_numpy(columns)
            old, new = (cost.gather(1, own[:, None]).sum() for own in (permutations[group], found))
            progress |= bool(new > old + 1e-12)
            permutations[group] = found
        if not progress:
            break
    return permutations


def write_sample(weights: Weights, symmetry: Symmetry, width: int, path: Path, copies: int = COPIES) -> None:
    """One window of one checkpoint with its permuted copies, the whole network where it is short."""
    generator = torch.Generator().manual_seed(0)
    whole = [
        weights,
        *(plain_permute(weights, symmetry, random_permutations(symmetry, generator)) for _ in range(copies)),
    ]
    tokenized = [plain_tokenize(network, width) for network in whole]
    tokens = torch.stack([tokens for tokens, _, _ in tokenized])
    torch.save({"w": tokens, "m": tokenized[0][1], "p": tokenized[0][2]}, path)


class Samples(Dataset):
    """Window files, each read when it is asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        sample = torch.load(self.paths[number], weights_only=True)
        return sample["w"], sample["m"], sample["p"]


def batches(paths: list[Path], size: int, window: int, workers: int) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    """Two views of a window of every sample: one start and one draw of copies for the whole batch."""
    for tokens, mask, positions in DataLoader(Samples(paths), batch_size=size, num_workers=workers, drop_last=True):
        start = int(torch.randint(max(1, tokens.shape[2] - window + 1), ()))
        own = slice(start, start + window)
        first, second = torch.randperm(tokens.shape[1])[:2].tolist()
        views = [tokens[:, number, own] for number in (first, second)]
        yield [view * (1 + 0.1 * torch.randn_like(view)) for view in views], mask[:, own], positions[:, own]


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        x = x + self.out(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class PlainSANE(nn.Module):
    """The published autoencoder: learned tables of positions, a head on the flattened window."""

    def __init__(self, token: int, width: int, layers: int, heads: int, latent: int, window: int, longest: int) -> None:
        super().__init__()
        self.into, self.to_latent = nn.Linear(token, width), nn.Linear(width, latent)
        self.from_latent, self.out = nn.Linear(latent, width), nn.Linear(width, token)
        self.encoder, self.decoder = (nn.ModuleList(PlainBlock(width, heads) for _ in range(layers)) for _ in range(2))
        self.tables = nn.ModuleList(nn.Embedding(longest, width // 2) for _ in range(3))
        self.head = nn.Sequential(
            nn.Linear(window * latent, PROJECTION, bias=False),
            nn.LayerNorm(PROJECTION),
            nn.ReLU(),
            nn.Linear(PROJECTION, PROJECTION, bias=False),
            nn.LayerNorm(PROJECTION),
            nn.ReLU(),
        )

    def encode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.into(tokens) + self.place(positions)
        for block in self.encoder:
            x = block(x)
        return self.to_latent(x)

    def forward(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.encode(tokens, positions)
        x = self.from_latent(latents) + self.place(positions)
        for block in self.decoder:
            x = block(x)
        return self.out(x), self.head(latents.flatten(1))

    def place(self, positions: Tensor) -> Tensor:
        number, layer, row = (table(positions[..., axis]) for axis, table in enumerate(self.tables))
        return torch.cat([number + layer, row], -1)


def plain_step(
    model: PlainSANE, optimizer: torch.optim.Optimizer, views: list[Tensor], mask: Tensor, positions: Tensor
) -> None:
    """One forward pass for each view; the loss over all entries, padding included."""
    made = [model(view, positions) for view in views]
    reconstruction = functional.mse_loss(
        torch.cat([tokens * mask for tokens, _ in made]), torch.cat([view * mask for view in views])
    )
    projected = functional.normalize(torch.cat([own for _, own in made]), dim=-1)
    similar = (projected @ projected.T / 0.1).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(similar)).roll(len(similar) // 2)
    loss = 0.95 * reconstruction + 0.05 * functional.cross_entropy(similar, partner)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
