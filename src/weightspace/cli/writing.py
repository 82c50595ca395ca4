"""Commands that write networks and evaluate them."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weightspace.autoencoder.config import BehaviourConfig
from weightspace.cli.shared import (
    THIRDS,
    Flat,
    Fold,
    Force,
    Json,
    Out,
    Resume,
    Split,
    chosen_mode,
    open_split,
    prepare_torch,
    print_json,
    print_result,
)
from weightspace.errors import InputError, require_between
from weightspace.evaluation.config import EvaluateConfig
from weightspace.generation.config import SamplerConfig, SelectConfig


def generate(
    model: Path,
    /,
    *,
    anchors: Path,
    out: Out,
    best: int = 20,
    by: str = "validation_accuracy",
    architecture: str | None = None,
    count: int = 10,
    data: str | None = None,
    sampling: Annotated[SamplerConfig, Flat] = SamplerConfig(),
    select: Annotated[SelectConfig, Flat] = SelectConfig(),
    choose_bandwidth: Annotated[bool, Parameter(negative="")] = False,
    novelty: float = 0.0,
    split: Split = THIRDS,
    seed: int = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Sample unseen networks around the best members the model was trained on; the result is a zoo.

    Parameters
    ----------
    model
        A trained SANE.
    anchors
        A zoo; its members that the model was trained on are candidates, all of them if it has none.
    best
        So many of the best members become anchors.
    by
        The property that says which are best; a test property would spoil the evaluation.
    architecture
        Take anchors of this architecture only; samplers that blend anchors need a single one.
    count
        How many networks.
    data
        Images to select with, to condition batch norms on and to refine on; without them those that the zoo names, if
        they are here.
    choose_bandwidth
        Take the bandwidth under which the zoo's validation members are likeliest.
    novelty
        Take the narrowest bandwidth at which networks are so new in weights and in function: 0.3 is a third as far from
        all known checkpoints as two members are from each other. 0 leaves the bandwidth as it is.
    seed
        Two seeds give different networks.
    """
    prepare_torch()
    from weightspace.autoencoder.sane import SANE
    from weightspace.generation.acquainting import acquaint
    from weightspace.generation.choosing import choose_anchors, training_members, tuned_sampler
    from weightspace.generation.coverage import describe_counts
    from weightspace.generation.generating import Generated, describe_generation, encode_anchors, write_generated
    from weightspace.generation.samplers.named import make_sampler
    from weightspace.generation.samplers.sampler import Sampler
    from weightspace.generation.selecting import generate_with
    from weightspace.generation.widening import novelty_of, widen
    from weightspace.outputs import require_apart
    from weightspace.zoo.recorded_images import images_for, recorded_images
    from weightspace.zoo.zoo import Zoo

    require_apart(out, [model, anchors])
    require_between("count", count, 1)
    if choose_bandwidth and novelty:
        raise InputError("expected --choose-bandwidth or --novelty, found both")
    sane, zoo = SANE.open(model), Zoo.open(anchors)
    if architecture is not None and architecture not in zoo.architectures:
        known = ", ".join(zoo.architectures)
        raise InputError(f"expected one of the architectures {known}, found '{architecture}'")
    chosen = choose_anchors(sane, zoo, best, by=by, architecture=architecture)
    sane = acquaint(sane, chosen)
    sampler, encoded = make_sampler(sampling), encode_anchors(sane, chosen)
    if choose_bandwidth:
        validation = open_split(anchors, split, int(sane.about.get("training", {}).get("seed", 0)))[1]
        sampling, sampler = tuned_sampler(sane, sampling, encoded, validation)
    images = images_for(zoo, data) if data is not None else recorded_images(zoo)

    def make(sampler: Sampler) -> list[Generated]:
        return generate_with(sane, encoded, count, images, select, seed=seed, sampler=sampler)

    if novelty:
        measure = novelty_of(sane, training_members(sane, zoo), images)
        sampling, networks = widen(sampling, novelty, make, measure)
    else:
        networks = make(sampler)
    about = describe_generation(model, chosen, sampling, relative_to=out, select=select)
    write_generated(networks, out, about=about, seed=seed, force=force)
    coverage = {name: sum(network.coverage[name] for network in networks) for name in networks[0].coverage}
    result = {"networks": count, **coverage, "sampler": about["sampler"], "select": about["select"]}
    print_result(out, f"{count} networks: {describe_counts(coverage)}", result, as_json)


def evaluate(
    folder: Path,
    /,
    *,
    data: str,
    config: Annotated[EvaluateConfig, Flat] = EvaluateConfig(),
    as_json: Json = False,
) -> None:
    """Fine-tune generated networks beside anchors, anchors with noise, and training from scratch.

    Parameters
    ----------
    folder
        What `weightspace generate` wrote.
    data
        The images the networks are for, as for grow.
    """
    prepare_torch()
    from weightspace.evaluation.comparing import compare_generated
    from weightspace.report.tables import print_table, writing_tables
    from weightspace.zoo.zoo import Zoo

    generated = Zoo.open(folder)
    rows = compare_generated(generated, data, config)
    if as_json:
        print_json(rows)
        return
    for table in writing_tables(rows):
        print_table(table)
    print(f"{folder}: {len(generated)} networks, all methods under one schedule")


def tune(
    model: Path,
    zoo: Path,
    /,
    *,
    out: Out,
    data: str | None = None,
    behaviour: Annotated[BehaviourConfig, Flat] = BehaviourConfig(),
    split: Split = THIRDS,
    fold: Fold = 0,
    from_epoch: int = 0,
    observe_every: int = 0,
    resume: Resume = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teach a trained SANE that what it decodes should compute what it encoded, and that mixtures should work.

    Parameters
    ----------
    model
        A trained SANE; it stays as it is.
    zoo
        What it was trained on.
    data
        Images that decoded networks are asked about; without them those that the zoo names, if they are here.
    from_epoch
        Use checkpoints from this epoch on only.
    observe_every
        Reconstruct validation members after every so many steps; 0 does so four times.
    """
    prepare_torch()
    from weightspace.autoencoder.fidelity import FidelityObserver
    from weightspace.autoencoder.sane import SANE
    from weightspace.autoencoder.training.distilling import tune as tune_sane
    from weightspace.report.model_card import held_out_networks
    from weightspace.zoo.recorded_images import images_for, recorded_images

    require_between("observe every", observe_every, 0)
    seed = int(SANE.open(model).about.get("training", {}).get("seed", 0))
    train, validation, _ = open_split(zoo, split, seed, fold)
    images = images_for(train, data) if data is not None else recorded_images(train)
    if images is None:
        raise InputError(f"expected --data, found none, nor the images that {zoo} was grown with")
    every = observe_every or max(1, behaviour.steps // 4)
    observer = FidelityObserver([(held_out_networks(validation), images.validation)])
    used = train.where(lambda table: table["epoch"] >= from_epoch)
    mode = chosen_mode(resume, force)
    tuned = tune_sane(model, used, images.train, behaviour, out=out, mode=mode, observers=[(every, observer)])
    final = tuned.about["final_behaviour"]
    kept = final.get("held_out_reconstructed_accuracy")
    line = f"decoded networks agree on {final['agreement']:.1%} of queries"
    if kept is not None:
        line += f"; unseen ones keep {kept:.3f} of {final['held_out_accuracy']:.3f} accuracy"
    print_result(out, line, {"members": len(used.members), **final}, as_json)
