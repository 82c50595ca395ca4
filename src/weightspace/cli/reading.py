"""Commands that read networks: what representations of their weights tell."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from weightspace.cli.shared import (
    THIRDS,
    Force,
    Json,
    Out,
    Split,
    prepare_torch,
    print_json,
    print_result,
    require_plot,
)
from weightspace.errors import InputError, require_between

TARGETS = "test_accuracy,epoch,generalization_gap"


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
    from weightspace.analysis.predicting.predictor import Predictor
    from weightspace.autoencoder.sane import SANE
    from weightspace.zoo.addressing import naming, open_networks

    if not networks:
        raise InputError("expected networks to predict properties of, found none")
    sane, predictor = SANE.open(model), Predictor.open(model)
    found = {}
    for name, weights in open_networks(networks):
        with naming(name):
            found[name] = predictor.predict(sane, weights)
        if not as_json:
            print(f"{name}: {found[name]}")
    if as_json:
        networks_found = {name: own.to_json() for name, own in found.items()}
        print_json({"level": predictor.level, "networks": networks_found})
        return
    held = ", ".join(f"{own.target.replace('_', ' ')} {own.coverage:.0%}" for own in predictor.properties)
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
    from weightspace.analysis.layers import FEATURES, average, layers_of
    from weightspace.autoencoder.sane import SANE
    from weightspace.outputs import new_file
    from weightspace.report.layer_plot import save_layers, save_similarity
    from weightspace.zoo.addressing import known_accuracies, naming, open_networks, short_names

    if not networks:
        raise InputError("expected networks to look into, found none")
    for plot in filter(None, (out, similarity)):
        require_plot(plot)
    sane, found = SANE.open(model), {}
    for name, weights in open_networks(networks):
        with naming(name):
            found[name] = layers_of(sane, weights, watch=weightwatcher)
    if similarity is not None and len(found) < 2:
        raise InputError("expected two networks for their similarity, found one")
    short = short_names(found)
    shown = {short[name]: own for name, own in found.items()}
    accuracies = known_accuracies(short, accuracy)
    with new_file(out, force=force) as path:
        save_layers(shown, accuracies, path)
    if similarity is not None:
        with new_file(similarity, force=force) as path:
            save_similarity(shown, path)
    means = {name: {feature: average(own, feature) for feature in FEATURES} for name, own in shown.items()}
    rows = {name: [{"name": o.name, "depth": o.depth, **o.features} for o in own] for name, own in shown.items()}
    result = {"layers": rows, "means": means, "accuracy": accuracies}
    print_result(out, f"{len(shown)} networks, {sum(map(len, shown.values()))} layers", result, as_json)


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
    from weightspace.analysis.retrieving import find_nearest, read_embeddings
    from weightspace.autoencoder.sane import SANE
    from weightspace.autoencoder.streaming import embed_network
    from weightspace.report.tables import neighbor_table, print_table
    from weightspace.zoo.addressing import naming, open_networks
    from weightspace.zoo.zoo import Zoo

    require_between("k", count, 1)
    sane = SANE.open(model)
    known = read_embeddings(folder) if folder.suffix == ".parquet" else sane.embed(Zoo.open(folder), aggregation)
    networks = list(open_networks([network]))
    if len(networks) != 1:
        raise InputError(f"expected one network, found {len(networks)} in {network}")
    with naming(network):
        vector = embed_network(sane, networks[0][1], aggregation).vector.numpy()[None]
    zoo, _, member = network.rpartition(":")
    others = known.table
    if zoo and Path(zoo).resolve() == folder.resolve():
        others = known.table[known.table["member"] != member]
    places = known.table.index.get_indexer(others.index)
    nearest = find_nearest(known.features[places], vector, count, search=search)
    rows = others.iloc[nearest.rows[0]].assign(distance=nearest.distances[0]).to_dict("records")
    if as_json:
        print_json(rows)
        return
    print_table(neighbor_table(network, rows))


def probe(
    folder: Path,
    /,
    *,
    sane: tuple[Path, ...] = (),
    representations: str = "standard",
    targets: str = TARGETS,
    model: Literal["linear", "trees"] = "linear",
    split: Split = THIRDS,
    folds: int = 0,
    seed: int = 0,
    allow_overlap: Annotated[bool, Parameter(negative="")] = False,
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
    representations
        Separated by commas: W, s(W), spectra, views, aligned, t(W), hyper, untrained, mean, mean+spread, readout,
        sequence, readout+s(W); standard for all but spectra, views and hyper; or all.
    targets
        Properties to predict, separated by commas, or all.
    model
        linear (ridge regression, as in the paper) or trees (gradient boosting).
    folds
        So many splits, each with other test members; 0 for as many as test every member at most once. Of one SANE,
        those that it has seen test members of are left out.
    seed
        Seed of the split: the one the SANE was trained with, so that it has not seen the test members.
    allow_overlap
        Probe all the same if the SANE was trained on test members.
    """
    prepare_torch()
    from weightspace.analysis.probing.comparing import compare_representations
    from weightspace.analysis.probing.folding import find_targets, make_folds
    from weightspace.autoencoder.sane import SANE
    from weightspace.report.tables import print_table, reading_tables
    from weightspace.zoo.zoo import Zoo

    require_between("folds", folds, 0)
    zoo, models = Zoo.open(folder), [SANE.open(path) for path in sane]
    names = [name.strip() for name in representations.split(",")]
    known = find_targets(zoo)
    everything = [*known.results, *known.hyper_parameters]
    wanted = [target.strip() for target in targets.split(",") if target.strip()]
    wanted = everything if wanted == ["all"] else wanted
    if targets == TARGETS:  # of the usual ones those that this zoo has
        wanted = [target for target in wanted if target in everything]
    if not wanted:
        raise InputError(f"expected properties that vary in {folder} to probe for, found none of {targets}")
    drawn = [target for target in wanted if target in known.hyper_parameters]
    made = make_folds(zoo, split, models, names, folds=folds, seed=seed, allow_overlap=allow_overlap)
    found = compare_representations(
        made,
        [target for target in wanted if target not in drawn],
        hyper_parameters=drawn,
        model=model,
        seed=seed,
        allow_overlap=allow_overlap,
    )
    if as_json:
        print_json(found.rows)
        return
    for table in reading_tables(found.rows):
        print_table(table)
        print()
    tested = len({member for fold in made for member in fold.parts[-1].members})
    print(f"{folder}: {len(made)} folds, {model} probes tested on {tested} of {len(zoo.members)} members")
