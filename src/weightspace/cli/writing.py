"""Commands that write networks and evaluate them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from weightspace.cli.shared import (
    Force,
    Given,
    GivenModule,
    Json,
    Model,
    Out,
    existing,
    options,
    prepare_torch,
    print_json,
    print_result,
    say,
)
from weightspace.evaluation.config import EvaluateConfig
from weightspace.generation.config import GenerateConfig, SamplerConfig, SelectConfig


def generate(
    model: Model,
    /,
    *,
    anchors: Path,
    out: Out,
    config: Annotated[GenerateConfig, options("Anchors")] = GenerateConfig(),
    sampling: Annotated[SamplerConfig, options("Sampling")] = SamplerConfig(),
    select: Annotated[SelectConfig, options("Selecting")] = SelectConfig(),
    module: Given = GivenModule(),
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
    """
    prepare_torch()
    from weightspace.generation.generating import WRITTEN, generate_zoo
    from weightspace.generation.sampling import describe_counts
    from weightspace.zoo.zoo import Zoo

    config, module = _of_the_zoo(config, module)
    opened = Zoo.open(anchors, module.describe())
    zoo = generate_zoo(model, opened, config, sampling, select, out=out, existing=existing(force))
    coverage = {name: int(zoo.table[name].sum()) for name in WRITTEN}
    made = zoo.about["generated"]
    result = {"networks": len(zoo), **coverage, **{key: made[key] for key in ("sampler", "select", "choice")}}
    said = f"; {made['choice']}" if made["choice"] else ""
    print_result(out, f"{len(zoo)} networks: {describe_counts(coverage)}{said}", result, as_json)


def _of_the_zoo(config: GenerateConfig, module: GivenModule) -> tuple[GenerateConfig, GivenModule]:
    """An --architecture that is no module is an id of the zoo's: only its networks are anchors."""
    if not module.architecture or ":" in module.architecture:
        return config, module
    return replace(config, only=module.architecture), replace(module, architecture="")


def evaluate(
    folder: Path,
    /,
    *,
    data: str,
    config: Annotated[EvaluateConfig, options("Schedule")] = EvaluateConfig(),
    module: Given = GivenModule(),
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
    from weightspace.evaluation.comparing import evaluate as evaluate_zoo
    from weightspace.report.result_tables import writing_tables
    from weightspace.report.tables import print_table
    from weightspace.zoo.zoo import Zoo

    generated = Zoo.open(folder, module.describe())
    rows = evaluate_zoo(generated, data, config)
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    for table in writing_tables(rows):
        print_table(table)
    say(f"{folder}: {len(generated)} networks, all methods under one schedule")
