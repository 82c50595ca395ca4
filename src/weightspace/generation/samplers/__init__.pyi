from weightspace.generation.samplers.gaussian import Gaussian as Gaussian
from weightspace.generation.samplers.gaussian import Mixture as Mixture
from weightspace.generation.samplers.gaussian import RandomLatents as RandomLatents
from weightspace.generation.samplers.interpolation import Interpolation as Interpolation
from weightspace.generation.samplers.kernel_density import KernelDensity as KernelDensity
from weightspace.generation.samplers.kernel_density import published_sampler as published_sampler

__all__: list[str]
