"""Commands that read networks: what representations of their weights tell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from weightspace.analysis.config import ForecastConfig, ProbeConfig
from weightspace.cli.shared import (
    OUTPUT,
    Device,
    Force,
    Given,
    GivenModule,
    Json,
    Model,
    options,
    plots,
    prepare_torch,
    print_json,
    say,
)
from weightspace.errors import InputError
from weightspace.responses.config import AskConfig

if TYPE_CHECKING:
    from weightspace.analysis.layers import LayerStudy


def predict(
    model: Model,
    /,
    *networks: str,
    module: Given = GivenModule(),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Predict properties of networks with intervals, or say that a network is unlike those the model knows.

    Parameters
    ----------
    model
        A trained SANE with its predictor, which pretrain and card fit; or small-cnns, which comes with the package.
    networks
        Files or folders of weights, folders of such files, or ZOO:MEMBER.
    """
    prepare_torch()
    from weightspace.analysis.predicting.telling import predict_networks

    told = predict_networks(model, module.addresses(networks), device=device, given=module.describe())
    predictions = {}
    for name, prediction in told.networks:
        predictions[name] = prediction
        if not as_json:
            say(f"{name}: {prediction}")
    if as_json:
        by_name = {name: prediction.to_json() for name, prediction in predictions.items()}
        print_json({**told.about(), "networks": by_name})
        return
    say(*told.closing(list(predictions.values())))


def layers(
    *networks: str,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    accuracy: Path | None = None,
    similarity: Path | None = None,
    weightwatcher: bool | None = None,
    module: Given = GivenModule(),
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare layers of networks of any size, and draw them over depth: SANE's features beside WeightWatcher's.

    Parameters
    ----------
    networks
        Files or folders of weights, such as a transformers folder, folders of such files, ZOO:MEMBER, or names of
        installed libraries' pretrained models: timm:resnet18, torchvision:resnet18, pytorchcv:resnet20_cifar10.
        Before them a trained SANE or the name of one that comes with the package (any, small-cnns); without one, any.
    out
        Where the figure goes: .png, .svg or .pdf; must not exist yet. Without it nothing is drawn.
    accuracy
        A JSON file with the accuracy of networks by name (that of the file without its ending): accuracy is drawn
        over the mean of every feature, with a line. Members of zoos bring their own.
    similarity
        Draw how alike the layers of the first and the last network are into this .png, .svg or .pdf.
    weightwatcher
        Read WeightWatcher's values too (the extra weightspace[weightwatcher]); where it is installed, unless told.
    """
    prepare_torch()
    from weightspace.analysis.layers import look_into
    from weightspace.autoencoder.sane import leading_model, open_for
    from weightspace.report.result_tables import layer_table
    from weightspace.report.tables import print_table

    model, names = leading_model(networks)
    with plots(out, similarity, force=force) as (figure, alike):
        opened, names = open_for(model, names, device, module.describe()), module.addresses(names)
        study = look_into(opened, names, accuracy, watch=weightwatcher, compare=similarity is not None)
        _draw_layers(study, figure, alike)
    if as_json:
        print_json({"out": str(out) if out else None, **study.to_json()})
        return
    print_table(layer_table(study))
    drawn = out or similarity
    say(f"{drawn}: {study.summary()}" if drawn else study.summary())


def _draw_layers(study: "LayerStudy", figure: Path | None, similarity: Path | None) -> None:
    from weightspace.report.plots import save_layers, save_similarity

    if figure is not None:
        save_layers(study.layers, study.accuracies, figure)
    if similarity is not None:
        save_similarity(study.layers, similarity)


def similar(
    *networks: str,
    count: Annotated[int, Parameter(alias="-k")] = 10,
    aggregation: str = "mean",
    by: Literal["weights", "responses"] = "weights",
    search: Literal["exact", "index"] = "exact",
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the networks of a zoo whose embeddings are nearest to a network's, or that do most nearly the same.

    Parameters
    ----------
    networks
        First a zoo, or the table of its embeddings that embed wrote with the same aggregation; then a network: a file
        or folder of weights, ZOO:MEMBER, or library:name (see layers). A member does not find itself in its zoo.
        Before them a trained SANE or the name of one that comes with the package (any, small-cnns); without one, any.
    count
        So many checkpoints.
    aggregation
        See embed.
    by
        weights compares embeddings; responses asks all networks and compares what they do: units and outputs.
    search
        exact compares with all; index builds a usearch index, for very many (needs the extra weightspace[index]).
    """
    prepare_torch()
    from weightspace.analysis.retrieving import find_alike, find_similar
    from weightspace.autoencoder.sane import leading_model, open_for
    from weightspace.report.tables import neighbor_table, print_table

    model, words = leading_model(networks)
    if len(words) != 2:
        raise InputError(f"expected a zoo and a network, found {', '.join(words) or 'nothing'}")
    folder, given = Path(words[0]), module.describe()
    (network,) = module.addresses(words[1:])
    if by == "responses":
        rows = find_alike(folder, network, count, ask=ask, given=given, search=search)
    else:
        sane = open_for(model, words, device, given)
        rows = find_similar(sane, folder, network, count, aggregation=aggregation, search=search)
    if as_json:
        print_json(rows)
        return
    print_table(neighbor_table(words[1], rows))


def probe(
    folder: Path,
    /,
    *,
    sane: tuple[Model, ...] = (),
    config: Annotated[ProbeConfig, options("Probing")] = ProbeConfig(),
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    as_json: Json = False,
) -> None:
    """Probe representations for properties, baselines beside each other, on members that nobody has seen.

    Parameters
    ----------
    folder
        A zoo.
    sane
        A trained SANE, or several that were trained on other folds: each fold takes one that has not seen its test
        members. Without any, only the baselines are probed.
    """
    prepare_torch()
    from weightspace.analysis.probing.folding import probe_zoo
    from weightspace.report.result_tables import reading_tables
    from weightspace.report.tables import print_table

    probed = probe_zoo(folder, sane, config, ask, module.describe())
    if as_json:
        print_json([row.to_json() for row in probed.rows])
        return
    for table in reading_tables(probed.rows):
        print_table(table)
        print()
    say(
        f"{folder}: {probed.folds} folds, {config.model} probes tested on {probed.tested} of {probed.members} members"
        + ("; there are few, so each is left out once, and nothing validates" if probed.left_out else ""),
        *([f"networks were not asked: {probed.not_asked}"] if probed.not_asked else []),
    )


def forecast(
    folder: Path,
    /,
    *checkpoints: str,
    epochs: tuple[int, ...] = (),
    config: Annotated[ForecastConfig, options("Forecasting")] = ForecastConfig(),
    ask: Annotated[AskConfig, options("Asking")] = AskConfig(),
    module: Given = GivenModule(),
    as_json: Json = False,
) -> None:
    """Tell the end of a training from its first checkpoints, with an interval; or how well a zoo's ends are told.

    Parameters
    ----------
    folder
        A zoo with several checkpoints a member.
    checkpoints
        The first checkpoints of a training by the same recipe, in order: files or folders of weights. Without any,
        members of the zoo are tested: a table over how many of their checkpoints were seen.
    epochs
        That the checkpoints are of; by default the zoo's first ones.
    """
    prepare_torch()
    from weightspace.analysis.forecasting import forecast as forecast_zoo
    from weightspace.analysis.forecasting import forecast_files
    from weightspace.report.result_tables import forecast_tables
    from weightspace.report.tables import print_table
    from weightspace.zoo.zoo import Zoo

    zoo = Zoo.open(folder, module.describe())
    if checkpoints:
        told = forecast_files(zoo, module.addresses(checkpoints), config, ask, epochs)
        print_json(told.to_json()) if as_json else say(*str(told).splitlines())
        return
    rows = forecast_zoo(zoo, config, ask)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    for table in forecast_tables(rows, config):
        print_table(table)
        print()
