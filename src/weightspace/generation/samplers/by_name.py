"""Samplers by name, from options."""

from weightspace.generation.config import SamplerConfig
from weightspace.generation.samplers.gaussian import Gaussian, Mixture
from weightspace.generation.samplers.interpolation import Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity, published_sampler
from weightspace.generation.samplers.random_latents import RandomLatents
from weightspace.generation.samplers.sampler import Sampler


def make_sampler(config: SamplerConfig) -> Sampler:
    """The sampler that a configuration names."""
    name, relative = config.sampler, config.bandwidth_in == "spread"
    density = KernelDensity(bandwidth=config.bandwidth, relative=relative, anchor=config.anchor, noise=config.noise)
    if name == "published":
        return published_sampler(config.bandwidth)
    if name == "gaussian":
        return Gaussian(scale=config.scale)
    if name == "mixture":
        return Mixture(components=config.components, scale=config.scale)
    if name == "interpolation":
        return Interpolation(
            mixed=config.mixed,
            neighbors=config.neighbors,
            along=config.along,
            bandwidth=config.bandwidth if config.noisy else 0.0,
        )
    if name == "random":
        return RandomLatents(scale=config.scale, onwards=density)
    return density
