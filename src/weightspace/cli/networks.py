"""Commands that write networks and evaluate them."""

from functools import partial
from pathlib import Path
from typing import Annotated

from weightspace.cli.shared import Flat, Force, Json, Out, prepare_torch, print_json, print_result
from weightspace.generation.config import EvaluateConfig


def generate(
    model: Path,
    /,
    *,
    anchors: Path,
    out: Out,
    best: int = 20,
    by: str = "validation_accuracy",
    count: int = 10,
    bandwidth: float = 0.2,
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
    count
        How many networks.
    bandwidth
        Noise on the latents, as a share of the anchors' spread.
    seed
        Two seeds give different networks.
    """
    prepare_torch()
    from weightspace.autoencoder.sane import SANE
    from weightspace.generation.choosing import choose_anchors
    from weightspace.generation.generating import describe_generation, generate_networks, write_generated
    from weightspace.generation.kernel_density import KernelDensity
    from weightspace.outputs import require_apart
    from weightspace.zoo.zoo import Zoo

    require_apart(out, [model, anchors])
    sane, sampler = SANE.open(model), KernelDensity(bandwidth=bandwidth)
    chosen = choose_anchors(sane, Zoo.open(anchors), best, by=by)
    networks = generate_networks(sane, chosen, count, seed=seed, sampler=sampler)
    about = describe_generation(model, chosen, sampler, relative_to=out)
    write_generated(networks, out, about=about, seed=seed, force=force)
    coverage = {name: sum(network.coverage[name] for network in networks) for name in ("generated", "carried")}
    line = f"{coverage['generated']:,} numbers generated, {coverage['carried']:,} carried over from anchors"
    print_result(out, f"{count} networks: {line}", {"networks": count, **coverage}, as_json)


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
    from weightspace.generation.comparing import compare_generated
    from weightspace.images import open_images
    from weightspace.report.tables import print_table, writing_table
    from weightspace.zoo.zoo import Zoo

    generated = Zoo.open(folder)
    rows = compare_generated(generated, partial(open_images, data), config)
    if as_json:
        print_json(rows)
        return
    print_table(writing_table(rows))
    print(f"{folder}: {len(generated)} networks, all methods under one schedule")
