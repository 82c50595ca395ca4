"""The published sampler, by name, so that tables can be compared."""

from weightspace.generation.samplers.kernel_density import KernelDensity


def published(bandwidth: float = 0.2) -> KernelDensity:
    """What the published code does: one anchor and one noise vector for all tokens of a sample.

    The paper describes independent draws per token (equation 7); its code draws every token with the same seed. Unlike
    the code, two calls with different generators give different samples.
    """
    return KernelDensity(bandwidth=bandwidth, relative=False, anchor="shared", noise="shared")
