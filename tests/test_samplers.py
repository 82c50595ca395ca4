"""Samplers: what their moments are, what they keep, and what they refuse."""

import pytest
import torch

from weightspace.errors import InputError
from weightspace.generation.config import SamplerConfig
from weightspace.generation.samplers.gaussian import Gaussian, Mixture, RandomLatents
from weightspace.generation.samplers.interpolation import Interpolation, slerp
from weightspace.generation.samplers.kernel_density import KernelDensity, published_sampler
from weightspace.generation.samplers.sampler import Sampler
from weightspace.generation.sampling import make_sampler
from weightspace.generation.widths import choose_bandwidth
from weightspace.randomness import derive_generator

ANCHORS = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
LAYERS = torch.tensor([0, 0, 1, 1])
ALL: list[Sampler] = [
    KernelDensity(),
    KernelDensity(anchor="layer"),
    published_sampler(),
    Gaussian(),
    Mixture(),
    Interpolation(),
    Interpolation(along="sphere", mixed=3, bandwidth=0.1),
    RandomLatents(),
]


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_one_seed_one_sample_and_another_another(sampler: Sampler) -> None:
    fitted = sampler.fit(ANCHORS, LAYERS)
    first, again, other = (fitted.sample(7, derive_generator(seed)) for seed in (0, 0, 1))
    assert first.latents.shape == (7, 4, 3) and first.anchors.shape == (7, 4)
    assert torch.equal(first.latents, again.latents) and not torch.equal(first.latents, other.latents)
    assert sampler.fit(ANCHORS[:1], LAYERS).sample(2, derive_generator(0)).latents.isfinite().all()
    mixes = isinstance(sampler, KernelDensity)
    assert (first.anchors >= 0).all() if sampler.keeps_anchor or mixes else (first.anchors == -1).all()


def test_tokens_of_a_layer_share_an_anchor() -> None:
    samples = KernelDensity(anchor="layer", bandwidth=0.0).fit(ANCHORS, LAYERS).sample(60, derive_generator(0))
    chosen = samples.anchors
    assert (chosen[:, 0] == chosen[:, 1]).all() and (chosen[:, 2] == chosen[:, 3]).all()
    assert (chosen[:, 0] != chosen[:, 2]).any()
    assert torch.equal(samples.latents, ANCHORS[chosen, torch.arange(4)])


def test_the_published_sampler_is_one_anchor_and_one_constant() -> None:
    samples = published_sampler(bandwidth=0.3).fit(ANCHORS, LAYERS).sample(4_000, derive_generator(0))
    residual = samples.latents - ANCHORS[samples.anchors[:, 0]]
    torch.testing.assert_close(residual, residual[:, :1].expand(-1, 4, -1), rtol=0, atol=1e-5)
    assert abs(float(residual[:, 0].std()) - 0.3) < 0.01


def test_a_gaussian_has_the_moments_of_its_anchors() -> None:
    fitted = Gaussian().fit(ANCHORS)
    drawn = fitted.sample(40_000, derive_generator(0)).latents.flatten(1)
    torch.testing.assert_close(drawn.mean(0), ANCHORS.flatten(1).mean(0), rtol=0, atol=0.04)
    expected = torch.cov(ANCHORS.flatten(1).T, correction=0)
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0, atol=0.08)


def test_a_mixture_finds_two_clusters() -> None:
    middle = torch.cat([torch.full((8, 2, 3), -5.0), torch.full((8, 2, 3), 5.0)])
    anchors = middle + 0.1 * torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(1))
    drawn = Mixture(components=2).fit(anchors).sample(400, derive_generator(0)).latents
    near = drawn.flatten(1).mean(1)
    assert ((near.abs() - 5).abs() < 0.5).all() and 120 < int((near > 0).sum()) < 280


def test_interpolations_are_between_anchors() -> None:
    drawn = Interpolation(mixed=2).fit(ANCHORS).sample(50, derive_generator(0)).latents.flatten(1)
    low, high = ANCHORS.flatten(1).amin(0), ANCHORS.flatten(1).amax(0)
    assert ((drawn >= low - 1e-5) & (drawn <= high + 1e-5)).all()
    # On a segment between two anchors the distances to its ends add up to its length.
    pairs = torch.pdist(ANCHORS.flatten(1))
    sums = torch.cdist(drawn, ANCHORS.flatten(1))
    gaps = [(sums[:, a] + sums[:, b] - (ANCHORS[a] - ANCHORS[b]).norm()).abs() for a in range(6) for b in range(a)]
    assert torch.stack(gaps).amin(0).max() < 1e-3 * float(pairs.max())
    near = Interpolation(mixed=2, neighbors=1).fit(torch.tensor([0.0, 1.0, 100.0]).view(3, 1, 1))
    assert (near.sample(80, derive_generator(0)).latents.flatten().sub(30).abs() > 28).float().mean() > 0.72


def test_slerp_keeps_lengths_and_ends() -> None:
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    middle = slerp(first, second, torch.tensor([[0.5]]))
    torch.testing.assert_close(middle, torch.tensor([[2.0, 2.0]]) / 2**0.5)
    torch.testing.assert_close(slerp(first, second, torch.tensor([[0.0]])), first)
    torch.testing.assert_close(slerp(first, 3 * first, torch.tensor([[0.5]])), 2 * first)


def test_the_bandwidth_that_made_networks_is_found_again() -> None:
    anchors = torch.randn(40, 6, 4, generator=derive_generator(0))
    for true in (0.1, 0.4):
        fresh = KernelDensity(bandwidth=true).fit(anchors).sample(40, derive_generator(1)).latents
        assert abs(choose_bandwidth(KernelDensity(), anchors, fresh) / true - 1) < 0.25
        apart = KernelDensity(bandwidth=true, anchor="independent")
        fresh = apart.fit(anchors).sample(40, derive_generator(2)).latents
        assert abs(choose_bandwidth(apart, anchors, fresh) / true - 1) < 0.4
    with pytest.raises(InputError, match="at least 2 anchors and 1 validation network"):
        choose_bandwidth(KernelDensity(), anchors[:1], anchors)
    with pytest.raises(InputError, match="relative bandwidth and independent noise"):
        choose_bandwidth(published_sampler(), anchors, anchors)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kernel-density", KernelDensity),
        ("published", KernelDensity),
        ("gaussian", Gaussian),
        ("mixture", Mixture),
        ("interpolation", Interpolation),
        ("random", RandomLatents),
    ],
)
def test_samplers_have_names(name: str, kind: type) -> None:
    assert isinstance(make_sampler(SamplerConfig(sampler=name)), kind)  # type: ignore[arg-type]


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="expected mixed to be at least 1, found 0"):
        SamplerConfig(mixed=0)
    with pytest.raises(InputError, match="expected the bandwidth to be at least 0"):
        SamplerConfig(bandwidth=-1.0)
    with pytest.raises(InputError, match="the sampler gaussian, found --bandwidth, which it does not use"):
        SamplerConfig(sampler="gaussian", bandwidth=0.1)
    with pytest.raises(InputError, match="the sampler kernel-density, found --noisy"):
        SamplerConfig(noisy=True)
    make_sampler(SamplerConfig(sampler="interpolation", noisy=True, bandwidth=0.1))
    for refused in (lambda: Gaussian(scale=-1.0), lambda: Mixture(components=0), lambda: Interpolation(neighbors=-1)):
        with pytest.raises(InputError, match="expected the"):
            refused()
