#!/usr/bin/env bash
# `torch.optim.swa_utils.update_bn` gives statistics of the batches, not of the data: they depend on how the loader cuts it.
#
# Guessed: one pass over the data sets a batch norm's running mean and variance to those of what it sees.
# Seen (torch 2.13.0): the mean over batches of each batch's own mean and variance. A last, smaller batch counts as much as a
# full one (100 rows of 0 and two of 1, in batches of 100: mean 0.5 instead of 0.02), and the variance *between* batches
# is left out: of two classes, 0 +- 0.1 and 1 +- 0.1, the running variance is 0.01 when the loader goes class by class (as a
# folder of images read in order is), and 0.26 when it is shuffled. No warning; the averaged network is evaluated with either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset


def statistics(values, batch):
    """Running mean and variance that a batch norm of one channel gets."""
    norm = torch.nn.BatchNorm1d(1)
    update_bn(DataLoader(TensorDataset(values), batch_size=batch), norm)
    return float(norm.running_mean), float(norm.running_var)


uneven = torch.cat([torch.zeros(100, 1), torch.ones(2, 1)])
mean, _ = statistics(uneven, 100)
print(f"mean {mean:.4f}, of the data {float(uneven.mean()):.4f}")
assert abs(mean - 0.5) < 1e-6 and abs(float(uneven.mean()) - 2 / 102) < 1e-6

torch.manual_seed(0)
classes = torch.cat([0.1 * torch.randn(512, 1), 1 + 0.1 * torch.randn(512, 1)])
by_class, shuffled = statistics(classes, 64)[1], statistics(classes[torch.randperm(1024)], 64)[1]
print(f"variance class by class {by_class:.3f}, shuffled {shuffled:.3f}, of the data {float(classes.var()):.3f}")
assert by_class < 0.02 and 0.24 < shuffled < 0.28 and 0.24 < float(classes.var()) < 0.28
PYTHON
