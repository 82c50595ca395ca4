"""Choose anchors: the networks that new ones are sampled around."""

from weightspace.autoencoder.sane import SANE
from weightspace.zoo.zoo import Zoo


def training_members(sane: SANE, zoo: Zoo) -> Zoo:
    """The members of a zoo that a model was trained on; the whole zoo if there are none."""
    known = zoo.where(lambda table: table["member"].isin(sane.trained_on(zoo)))
    return known if len(known) else zoo


def choose_anchors(sane: SANE, zoo: Zoo, count: int, *, by: str = "validation_accuracy") -> Zoo:
    """The best checkpoint of each of the `count` best training members.

    Chosen by a validation property, so that test accuracy never decides what is generated.

    Raises:
        InputError: an unknown property, or fewer members than asked for.
    """
    return training_members(sane, zoo).best(count, by=by)
