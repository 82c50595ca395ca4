"""How networks are sampled and selected."""

from dataclasses import dataclass, fields
from typing import Literal

from weightspace.errors import MOST, InputError, require_between

SamplerName = Literal["kernel-density", "published", "gaussian", "mixture", "interpolation", "random"]
DENSITY = ("bandwidth", "bandwidth_in", "anchor", "noise")
USED: dict[SamplerName, tuple[str, ...]] = {
    "kernel-density": DENSITY,
    "published": ("bandwidth",),
    "gaussian": ("scale",),
    "mixture": ("scale", "components"),
    "interpolation": ("mixed", "neighbors", "along", "noisy"),
    "random": ("scale", *DENSITY),
}


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How latents of new networks are drawn from those of anchors."""

    sampler: SamplerName = "kernel-density"
    """kernel-density: an anchor and noise; published: one anchor and one noise vector for all tokens, as published;
    gaussian; mixture (of Gaussians); interpolation (between anchors); random: the paper's start from nowhere."""

    bandwidth: float = 0.2
    """Noise of a kernel density, and of interpolation where it is asked for."""

    bandwidth_in: Literal["spread", "latents"] = "spread"
    """Bandwidths are shares of the anchors' spread, or in latent units (the paper; always so for `published`)."""

    anchor: Literal["shared", "layer", "independent"] = "shared"
    """One anchor for a whole sample of a kernel density, for each of its layers, or for each token (equation 7)."""

    noise: Literal["shared", "independent"] = "independent"
    """Noise of each token's own, or one noise vector for all tokens of a sample."""

    mixed: int = 2
    """Anchors that an interpolation is made of."""

    neighbors: int = 0
    """Interpolate an anchor with so many that are nearest to it; 0: with any."""

    along: Literal["line", "sphere"] = "line"
    """Interpolate along lines, or along great circles."""

    noisy: bool = False
    """Interpolations have noise too."""

    components: int = 3
    """Components of a mixture."""

    scale: float = 1.0
    """What the deviations of Gaussians and mixtures, and random latents, are multiplied by."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range, or that this sampler has no use for."""
        for name in ("bandwidth", "scale", "neighbors"):
            require_between(f"the {name}", getattr(self, name), 0)
        for name in ("mixed", "components"):
            require_between(name, getattr(self, name), 1, MOST)
        used = {"sampler", *USED[self.sampler], *(("bandwidth",) if self.noisy else ())}
        for option in fields(self):
            if option.name not in used and getattr(self, option.name) != option.default:
                name = "--" + option.name.replace("_", "-")
                raise InputError(f"expected options of the sampler {self.sampler}, found {name}, which it does not use")


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """How the best of many samples are kept, and what is done to them, all of it without test images.

    Examples:
        >>> SelectConfig(draws=50, novelty=0.3).draws
        50
    """

    draws: int = 0
    """Draw so many and keep the best on validation images (the paper's subsampling); 0: keep what is drawn first."""

    rounds: int = 1
    """Rounds of drawing; the best of a round are the anchors of the next (the paper's bootstrapping)."""

    keep: int = 5
    """Networks of a round that become anchors of the next."""

    spread: bool = True
    """Keep the best network of every anchor first, so that those kept differ; otherwise the best ones (the paper)."""

    condition: int = 1_000
    """At most so many training images, over which statistics of batch norms are averaged; 0: as generated."""

    novelty: float = 0.0
    """Take the narrowest bandwidth at which networks are so new in weights and in function: 0.3 is a third as far from
    all known checkpoints as two members are from each other. 0 leaves the bandwidth as it is."""

    refine: int = 0
    """Gradient steps on the latents of every kept network, through the decoder, on training images and labels."""

    refine_rate: float = 0.03
    """Learning rate of these steps (Adam), as a share of the latents' root mean square; it falls along a cosine."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        for name in ("draws", "condition", "novelty", "refine", "refine_rate"):
            require_between(name.replace("_", " "), getattr(self, name), 0, MOST)
        for name in ("rounds", "keep"):
            require_between(name, getattr(self, name), 1, MOST)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What networks are generated around, and how many."""

    best: int = 20
    """So many of the best members become anchors."""

    by: str = "validation_accuracy"
    """The property that says which are best; a test property would spoil the evaluation. A zoo without
    validation_accuracy is ranked by what it has, which is said."""

    only: str | None = None
    """The id of an architecture of the zoo (--architecture takes it too): take anchors of it only; samplers that blend
    anchors need a single one."""

    count: int = 10
    """How many networks."""

    data: str | None = None
    """Images to select with, to condition batch norms on and to refine on; without them those that the zoo names, if
    they are here."""

    choose_bandwidth: bool = False
    """Take the bandwidth under which the zoo's validation members are likeliest."""

    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of members for training, validation and test: those the model was trained with."""

    seed: int = 0
    """Two seeds give different networks."""

    device: str = "auto"
    """cpu, an accelerator as torch names it (cuda, cuda:1, mps), or auto: the accelerator, if there is one and the work
    is worth it."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("count", self.count, 1, MOST)
        require_between("best", self.best, 1, MOST)
        if self.by.startswith("test") or self.by.endswith("loss"):
            raise InputError(
                f"expected a property to choose by that is no loss and not of test images, found '{self.by}'"
            )


By = Literal["auto", "names", "weights", "activations"]


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """How networks are averaged, and by what the average is judged.

    Examples:
        >>> MergeConfig(by="weights").per
        'network'
    """

    by: By = "auto"
    """What says which units belong together: their names (places), weights, or activations on the inputs that networks
    are asked with; auto tries all three and keeps what is best on validation images, or by agreement without images."""

    per: Literal["network", "layer"] = "network"
    """Average whole networks; or start at the best one and average layer by layer, where validation images gain."""

    data: str = ""
    """Images, as for grow: the validation part judges and chooses, the training part sets batch norms anew, the test
    part is reported. Without them networks are asked with noise, which can tell agreement but not what is better."""

    images: int = 2_000
    """Judge by so many validation images, and report so many test images."""

    recalibrate: int = 1_000
    """Set batch norms anew with so many training images; 0: average their statistics, as without images."""

    match_on: int = 512
    """Match activations on so many training images (a power of two of them), and give units back their variance on as
    many of these as fit at once; without images, on the noise that networks are asked with."""

    repair: bool = True
    """Also try the average with the variance that its units lost given back (REPAIR)."""

    adapters: Literal["sum", "average"] = "sum"
    """What becomes of adapters that are named without a base."""

    anyway: bool = False
    """Write the average also if it is worse than the best part, or if nobody can tell."""

    seed: int = 0
    """Of what is drawn from the training images, and of restarts."""

    def __post_init__(self) -> None:
        """Raise `InputError` naming the first field that is out of range."""
        require_between("the number of images", self.images, 1, MOST)
        require_between("the number of images to match on", self.match_on, 4, MOST)
        require_between("recalibrate", self.recalibrate, 0, MOST)
        if self.recalibrate == 1:
            raise InputError("expected at least 2 images to set batch norms anew with (--recalibrate), or 0, found 1")
        if self.per == "layer" and not self.data:
            raise InputError("expected images (--data) to choose layers by, found none")
