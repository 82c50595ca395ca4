"""Commands that read networks: what representations of their weights tell."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from weightspace.analysis.config import ProbeConfig
from weightspace.cli.shared import (
    Force,
    Json,
    Out,
    existing,
    options,
    prepare_torch,
    print_json,
    print_result,
    require_plot,
)


def predict(model: Path, /, *networks: str, as_json: Json = False) -> None:
    """Predict properties of networks with intervals, or say that a network is unlike those the model knows.

    Parameters
    ----------
    model
        A trained SANE with its predictor, which pretrain and card fit.
    networks
        Files or folders of weights, folders of such files, or ZOO:MEMBER.
    """
    prepare_torch()
    from weightspace.analysis.predicting.predictor import predict_networks

    predictor, said = predict_networks(model, networks)
    predictions = {}
    for name, prediction in said:
        predictions[name] = prediction
        if not as_json:
            print(f"{name}: {prediction}")
    if as_json:
        by_name = {name: prediction.to_json() for name, prediction in predictions.items()}
        print_json({"level": predictor.level, "networks": by_name})
        return
    held = ", ".join(f"{known.target.replace('_', ' ')} {known.coverage:.0%}" for known in predictor.properties)
    tested = predictor.members[2]
    print(f"Intervals are for {predictor.level:.0%} of networks; of {tested} members held out they hold {held}.")


def layers(
    model: Path,
    /,
    *networks: str,
    out: Out,
    accuracy: Path | None = None,
    similarity: Path | None = None,
    weightwatcher: bool = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Draw features of layers over depth for networks of any size, SANE's beside WeightWatcher's.

    Parameters
    ----------
    model
        A trained SANE.
    networks
        Files or folders of weights, such as a transformers folder, folders of such files, ZOO:MEMBER, or names of
        installed libraries' pretrained models: timm:resnet18, torchvision:resnet18, pytorchcv:resnet20_cifar10.
    out
        Where the figure goes: .png, .svg or .pdf; must not exist yet.
    accuracy
        A JSON file with the accuracy of networks by name (that of the file without its ending): accuracy is drawn
        over the mean of every feature, with a line. Members of zoos bring their own.
    similarity
        Draw how alike the layers of the first and the last network are into this .png, .svg or .pdf.
    weightwatcher
        Read WeightWatcher's values too (needs the extra weightspace[weightwatcher]).
    """
    prepare_torch()
    from weightspace.analysis.layers import look_into
    from weightspace.outputs import new_file
    from weightspace.report.plots import save_layers, save_similarity

    for plot in filter(None, (out, similarity)):
        require_plot(plot)
    study = look_into(model, networks, accuracy, watch=weightwatcher, compare=similarity is not None)
    with new_file(out, existing=existing(force)) as path:
        save_layers(study.layers, study.accuracies, path)
    if similarity is not None:
        with new_file(similarity, existing=existing(force)) as path:
            save_similarity(study.layers, path)
    line = f"{len(study.layers)} networks, {sum(map(len, study.layers.values()))} layers"
    print_result(out, line, study.to_json(), as_json)


def similar(
    model: Path,
    folder: Path,
    network: str,
    /,
    *,
    count: Annotated[int, Parameter(alias="-k")] = 10,
    aggregation: str = "mean",
    search: Literal["exact", "index"] = "exact",
    as_json: Json = False,
) -> None:
    """Find the networks of a zoo whose embeddings are nearest to a network's.

    Parameters
    ----------
    model
        A trained SANE.
    folder
        A zoo, or the table of its embeddings that embed wrote, with the same aggregation.
    network
        A file or folder of weights, ZOO:MEMBER, or library:name (see layers). A member does not find itself in its
        zoo.
    count
        So many checkpoints.
    aggregation
        See embed.
    search
        exact compares with all; index builds a usearch index, for very many (needs the extra weightspace[index]).
    """
    prepare_torch()
    from weightspace.analysis.retrieving import find_similar
    from weightspace.report.tables import neighbor_table, print_table

    rows = find_similar(model, folder, network, count, aggregation=aggregation, search=search)
    if as_json:
        print_json(rows)
        return
    print_table(neighbor_table(network, rows))


def probe(
    folder: Path,
    /,
    *,
    sane: tuple[Path, ...] = (),
    config: Annotated[ProbeConfig, options("Probing")] = ProbeConfig(),
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
    from weightspace.report.tables import print_table, reading_tables

    probed = probe_zoo(folder, sane, config)
    if as_json:
        print_json([row.to_json() for row in probed.rows])
        return
    for table in reading_tables(probed.rows):
        print_table(table)
        print()
    print(
        f"{folder}: {probed.folds} folds, {config.model} probes tested on {probed.tested} of {probed.members} members"
    )
