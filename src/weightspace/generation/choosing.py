"""Choose anchors, the networks that new ones are sampled around, and the bandwidth."""

from dataclasses import replace

from weightspace.autoencoder.inference import encode_zoo
from weightspace.autoencoder.sane import SANE
from weightspace.errors import InputError
from weightspace.generation.bandwidth import choose_bandwidth
from weightspace.generation.config import SamplerConfig
from weightspace.generation.generating import Anchors
from weightspace.generation.samplers.kernel_density import KernelDensity
from weightspace.generation.samplers.named import make_sampler
from weightspace.generation.samplers.sampler import Sampler
from weightspace.zoo.zoo import Zoo


def training_members(sane: SANE, zoo: Zoo) -> Zoo:
    """The members of a zoo that a model was trained on; the whole zoo if there are none."""
    known = zoo.where(lambda table: table["member"].isin(sane.trained_on(zoo)))
    return known if len(known) else zoo


def choose_anchors(
    sane: SANE, zoo: Zoo, count: int, *, by: str = "validation_accuracy", architecture: str | None = None
) -> Zoo:
    """The best checkpoint of each of the `count` best training members, of one architecture if it is named.

    Chosen by a validation property of which more is better, so that test accuracy never decides what is generated.

    Raises:
        InputError: an unknown property, one of test images, a loss, or fewer members than asked for.
    """
    if by.startswith("test") or by.endswith("loss"):
        raise InputError(f"expected a property to choose by that is no loss and not of test images, found '{by}'")
    members = training_members(sane, zoo)
    return (members if architecture is None else members.where(architecture=architecture)).best(count, by=by)


def tuned_sampler(
    sane: SANE, config: SamplerConfig, anchors: Anchors, validation: Zoo
) -> tuple[SamplerConfig, Sampler]:
    """A kernel density with the bandwidth under which the last checkpoints of validation members are likeliest.

    Raises:
        InputError: another sampler, members the model was trained on, or a refusal of `choose_bandwidth`.
    """
    sampler = make_sampler(config)
    if not isinstance(sampler, KernelDensity):
        raise InputError(f"expected a kernel density to choose a bandwidth for, found {config.sampler}")
    known = sane.trained_on(validation)
    if known:
        raise InputError(f"expected members that the model was not trained on, found {min(known)}")
    alike = {architecture.id for architecture in anchors.architectures}
    own = validation.last().where(lambda table: table["architecture"].isin(alike))
    for latents in encode_zoo(sane, own) if len(own) else ():
        if latents.values.shape[1:] == anchors.latents.shape[1:]:
            chosen = choose_bandwidth(sampler, anchors.latents, latents.values, anchors.layers)
            tuned = replace(config, bandwidth=chosen)
            return tuned, make_sampler(tuned)
    raise InputError("expected validation members of the anchors' architectures, found none")
