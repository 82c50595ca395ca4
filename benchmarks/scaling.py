"""What more members bring, what limits the autoencoder, whether latents join networks, and ensembles; see seeds.sh.

    scaling     30, 100, 300 and 700 training members of one zoo, nested: at equal steps, and at equal passes over them
    limits      700 members: width, latents per weight, layers and steps
    ensembles   from 5 anchors 20 networks without training, beside the anchors, noise, Gaussians and members

Every figure is of test members and test images, but for anchors, which are the best training members on validation
images, and the levels of noise, which validation images choose. Rows that are there already are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tables_reading
import torch
from seeds import SEED, Job, Row, carry_out, trained_once
from tables_writing import DISTILLING, PLAIN, PREPARATION, SAMPLER, SHAPE, TRAINING, Setting, anchors_of, trained
from torch import Tensor
from torch.nn import functional

from weightspace.analysis.fidelity import measure_fidelity
from weightspace.analysis.probing.probe import probe
from weightspace.analysis.representations.catalog import represent
from weightspace.autoencoder.coding import decode_latents, encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.distilling import distill
from weightspace.evaluation.comparing import Competitors, compare_with_controls
from weightspace.evaluation.config import EvaluateConfig
from weightspace.evaluation.mixing import add_noise, noise_of_novelty
from weightspace.generation.anchors import encode_anchors
from weightspace.generation.novelty import NoveltyReference, StandardizedSpace
from weightspace.generation.samplers.gaussian import Gaussian
from weightspace.generation.sampling import sample_networks
from weightspace.images import Images
from weightspace.linear_paths import interpolate
from weightspace.randomness import derive_generator
from weightspace.supervised import predict_stack, score_stack, stack_weights
from weightspace.weights.values import Weights
from weightspace.zoo.architecture import Architecture
from weightspace.zoo.embeddings import Embeddings
from weightspace.zoo.zoo import Zoo

COUNTS = (30, 100, 300, 700)
STEPS, DISTILLED, READ, FEWEST = 1_000, 1_000, 300, 10
PAIRS, SHARES = 40, (0.1, 0.25, 0.5)
SAMPLES, ANCHORS = 20, 5
BINS, LATE = 15, 3
LIMITS: tuple[dict[str, int], ...] = (
    {},
    *({"latent_width": width} for width in (8, 16, 64, 128)),
    *({"model_width": width} for width in (128, 256)),
    {"layers": 4},
    {"steps": 4 * STEPS},
)


def members(train: Zoo, count: int) -> Zoo:
    """The first so many training members in an order drawn once: fewer are always among more."""
    order = torch.randperm(len(train.members), generator=derive_generator(SEED, "nested")).tolist()
    chosen = {train.members[place] for place in order[:count]}
    return train.where(lambda table: table["member"].isin(chosen))


def counts_of(train: Zoo) -> list[int]:
    """As many of the numbers of members as there are training members for; all of them where they are fewer."""
    return [count for count in COUNTS if count <= len(train.members)] or [len(train.members)]


def scaling(setting: Setting, name: str) -> Iterator[Job]:
    """Reconstruction, accuracy kept, reading, samples and lines between networks, by training members."""
    train = setting.parts(name)[0]
    counts = counts_of(train)
    known: dict[str, list[Embeddings]] = {}
    for equal in ("steps", "passes"):
        for count in counts if equal == "steps" else counts[:-1]:
            share = 1.0 if equal == "steps" else count / counts[-1]

            def compute(equal: str = equal, count: int = count, share: float = share) -> list[Row]:
                some = members(train, count)
                plain, sane = models(setting, name, some, f"{count}-{equal}", share)
                rows = [{"what": "kept", **kept(setting, name, plain, sane)}]
                rows += [{"what": "read", **row} for row in read(setting, name, some, f"{count}-{equal}", share, known)]
                rows += [{"what": "sampled", **row} for row in sampled(setting, name, sane, some)]
                return rows + [{"what": "between", **row} for row in between(setting, name, sane, some)]

            yield {"zoo": name, "members": count, "equal": equal}, compute


def steps_of(steps: int, share: float) -> int:
    return max(FEWEST, round(steps * share))


def models(setting: Setting, name: str, train: Zoo, key: str, share: float) -> tuple[SANE, SANE]:
    """Pre-trained on all their checkpoints, and distilled on the later ones."""
    before, out = setting.models / f"{name}-{key}", setting.models / f"{name}-{key}-distilled"
    plain = trained_once(before, train, SHAPE, replace(TRAINING, steps=steps_of(STEPS, share)), PREPARATION)
    if not out.exists():
        config = replace(DISTILLING, steps=steps_of(DISTILLED, share))
        distill(before, trained(train), setting.images(name).train, config, out=out)
    return plain, SANE.open(out)


def kept(setting: Setting, name: str, plain: SANE, sane: SANE | None = None) -> Row:
    """What is left of test members' last checkpoints."""
    last, images = setting.parts(name)[2].last(), setting.images(name).test
    before = measure_fidelity(plain, last, images)
    row = {"r2": before.overall_r2, "original": before.original, "reconstructed": before.reconstructed}
    row |= {"latents_per_weight": before.latents_per_weight}
    if sane is not None:
        after = measure_fidelity(sane, last, images)
        row |= {"r2_distilled": after.overall_r2, "distilled": after.reconstructed}
    return row


def read(
    setting: Setting, name: str, train: Zoo, key: str, share: float, known: dict[str, list[Embeddings]]
) -> list[Row]:
    """R² of linear probes that learn from the same members."""
    whole = setting.parts(name)
    for label in ("s(W)", "r(W)"):
        known[label] = known.get(label) or represent(whole, label)
    training = replace(tables_reading.TRAINING, steps=steps_of(READ, share))
    sane = trained_once(setting.models / f"{name}-{key}-reading", train, SANEConfig(), training)
    rows = []
    some = set(train.members)
    for label in ("s(W)", "r(W)", "readout"):
        parts = known.get(label) or represent((train, *whole[1:]), label, sane)
        told = parts[0].table["member"].isin(some).to_numpy()
        first = replace(parts[0], features=parts[0].features[told], table=parts[0].table[told])
        for target in tables_reading.TARGETS:
            found = probe(first, *parts[1:], target=target, seed=SEED)
            rows.append(
                {"representation": label, "target": target, "r2": found.r2, "low": found.r2_low, "high": found.r2_high}
            )
    return rows


def sampled(setting: Setting, name: str, sane: SANE, train: Zoo) -> list[Row]:
    """Networks as they are drawn around the ten best members, none selected, and controls drawn alike."""
    images, anchors = setting.images(name), anchors_of(train)
    drawn = sample_networks(sane, encode_anchors(sane, anchors), SAMPLES, seed=SEED, sampler=SAMPLER)
    competitors = Competitors(sane, train, anchors, {"SANE": drawn}, PLAIN)
    config = EvaluateConfig(epochs=(0,), full_length=1, learning_rate=1e-3, seed=SEED)
    rows = compare_with_controls(competitors, images, config).rows
    fields = ("method", "accuracy", "accuracy_low", "accuracy_high", "novelty", "functional_novelty", "diversity")
    return [{field: getattr(row, field) for field in fields} for row in rows if not row.epochs]


def between(setting: Setting, name: str, sane: SANE, train: Zoo) -> list[Row]:
    """Accuracy and loss on lines between members at their last epoch, in latents and in aligned weights.

    The barrier is what the middle loses against the mean of the ends, which on a line of latents are decoded.
    """
    rows = []
    for where, zoo in (("training", train), ("unseen", setting.parts(name)[2])):
        last = zoo.last()
        architecture = last.architectures[str(last.table["architecture"].iloc[0])]
        order = torch.randperm(len(last), generator=derive_generator(SEED, "pairs")).tolist()
        chosen = [last.weights(row) for row in order[: min(2 * PAIRS, len(last) // 2 * 2)]]
        for space, line in (("latents", latent_line), ("weights", weight_line)):
            at = line(sane, chosen, architecture)
            row: Row = {"where": where, "space": space, "pairs": len(chosen) // 2}
            scores = {
                share: score_stack(architecture.build(), stack_weights(at(share)), setting.images(name).test)
                for share in (0.0, *SHARES, 1.0)
            }
            row |= {f"accuracy_{share:g}": float(score.accuracy.mean()) for share, score in scores.items()}
            for kind in ("accuracy", "loss"):
                ends, middle = (
                    torch.stack([getattr(scores[share], kind) for share in shares]).mean(0)
                    for shares in ((0.0, 1.0), (0.5,))
                )
                gap = (ends - middle) if kind == "accuracy" else (middle - ends)
                row |= {f"barrier_{kind}": float(gap.mean()), f"barrier_{kind}_se": float(gap.std() / len(gap) ** 0.5)}
            rows.append(row)
    return rows


Line = Callable[[float], list[Weights]]


def latent_line(sane: SANE, networks: list[Weights], architecture: Architecture) -> Line:
    """Networks decoded between the latents of each and the next."""
    prepared = [sane.preparation.prepare(weights, architecture) for weights in networks]
    layout = prepared[0].frame.layout
    latents = encode_tokens(sane.network, torch.stack([one.tokens for one in prepared]), layout)

    def at(share: float) -> list[Weights]:
        tokens = decode_latents(sane.network, torch.lerp(latents[0::2], latents[1::2], share), layout)
        return [sane.preparation.restore(one, architecture, prepared[0].carried) for one in tokens]

    return at


def weight_line(sane: SANE, networks: list[Weights], architecture: Architecture) -> Line:
    """Between the aligned weights of each and the next."""
    aligned = [sane.preparation.canonicalize(weights, architecture) for weights in networks]
    pairs = list(zip(aligned[0::2], aligned[1::2], strict=True))
    return lambda share: [interpolate(first, second, share) for first, second in pairs]


def limits(setting: Setting, name: str) -> Iterator[Job]:
    """The same members and windows, one thing changed at a time."""
    train = setting.parts(name)[0]
    for changed in LIMITS:
        shape = {
            field: changed.get(field, getattr(SHAPE, field)) for field in ("latent_width", "model_width", "layers")
        }
        key = {"zoo": name, "members": len(train.members), **shape, "steps": changed.get("steps", STEPS)}

        def compute(key: Row = key, shape: dict[str, Any] = shape) -> list[Row]:
            out = setting.models / "-".join([name, "limits", *map(str, list(key.values())[2:])])
            sane = trained_once(out, train, replace(SHAPE, **shape), replace(TRAINING, steps=key["steps"]), PREPARATION)
            lines = [row for row in between(setting, name, sane, train) if row["where"] == "unseen"]
            barriers = {f"barrier_in_{row['space']}": row["barrier_accuracy"] for row in lines}
            return [{**kept(setting, name, sane), **barriers}]

        yield key, compute


def ensembles(setting: Setting, name: str) -> Iterator[Job]:
    """Twenty networks from five anchors, none of them trained, as one."""
    train = setting.parts(name)[0]
    train = members(train, counts_of(train)[-1])
    yield {"zoo": name, "anchors": ANCHORS}, lambda: compare_ensembles(setting, name, train)


def compare_ensembles(setting: Setting, name: str, train: Zoo) -> list[Row]:
    _, sane = models(setting, name, train, f"{len(train.members)}-steps", 1.0)
    anchors, images = anchors_of(train, ANCHORS), setting.images(name)
    architecture = anchors.architectures[str(anchors.table["architecture"].iloc[0])]
    reference = NoveltyReference(train, sane.preparation, architecture)
    space = StandardizedSpace(sane.preparation.frame_of(architecture), architecture)
    near = [sane.preparation.canonicalize(anchors.weights(row), architecture) for row in range(len(anchors))]
    drawn = {
        label: [
            dict(one)
            for one in sample_networks(sane, encode_anchors(sane, anchors), SAMPLES, seed=SEED, sampler=sampler)
        ]
        for label, sampler in (("SANE, kernel density", SAMPLER), ("SANE, Gaussian on latents", Gaussian()))
    }

    def accuracy(networks: list[Weights]) -> float:
        return float(score_stack(architecture.build(), stack_weights(networks), images.validation).accuracy.mean())

    def noisy(level: float) -> list[Weights]:
        return add_noise(near, space, level=level, count=SAMPLES, seed=SEED).networks

    level = noise_of_novelty(lambda level: -accuracy(noisy(level)), -accuracy(drawn["SANE, kernel density"]))
    others = train.last().where(lambda table: ~table["member"].isin(set(anchors.members)))
    order = torch.randperm(len(others), generator=derive_generator(SEED, "ensemble")).tolist()[:SAMPLES]
    drawn |= {
        "the anchors": near,
        "noise of equal member accuracy": noisy(level),
        "Gaussian around each anchor's last checkpoints": swag(train, anchors, space),
        "Gaussian over the anchors' weights": gaussian(near, space),
        "as many members of the zoo": [
            sane.preparation.canonicalize(others.weights(row), architecture) for row in order
        ],
    }
    rows = []
    for label, networks in drawn.items():
        row = {"method": label, **ensemble(architecture, networks, images.test)}
        if label != "the anchors":
            joined = ensemble(architecture, [*near, *networks], images.test)
            row |= {f"with_anchors_{key}": joined[key] for key in ("accuracy", "nll", "calibration_error")}
        measured = reference.measure(networks, architecture, images.test)
        row |= {"dispersion": float(np.median(measured.diversity)), "novelty": float(np.median(measured.weights))}
        rows.append({**row, "noise": level} if "noise" in label else row)
    return rows


def swag(train: Zoo, anchors: Zoo, space: StandardizedSpace) -> list[Weights]:
    """Around the mean of every anchor's last kept checkpoints, with half of their covariance and half of its diagonal.

    Maddox et al. (2019), equation 1, on the checkpoints that there are, which are further apart than theirs. Not
    aligned: checkpoints of one training are, and the three of them could be matched to three places.
    """
    generator, networks = derive_generator(SEED, "swag"), []
    for number in range(SAMPLES):
        own = train.where(member=anchors.members[number % len(anchors.members)])
        late = own.where(lambda table: table["epoch"] >= sorted(table["epoch"].unique())[-LATE])
        weights = [late.weights(row) for row in range(len(late))]
        flats = torch.stack([space.flatten(one) for one in weights])
        mean, gaps = flats.mean(0), flats - flats.mean(0)
        noise = torch.randn(flats.shape[1], generator=generator) * gaps.std(0, correction=1) / 2**0.5
        low = torch.randn(len(flats), generator=generator) @ gaps / (2 * (len(flats) - 1)) ** 0.5
        networks.append(space.restore(mean + noise + low, weights[-1]))
    return networks


def gaussian(anchors: list[Weights], space: StandardizedSpace) -> list[Weights]:
    """With the mean and the spread of the anchors' aligned weights."""
    generator = derive_generator(SEED, "gaussian")
    flats = torch.stack([space.flatten(one) for one in anchors])
    mean, spread = flats.mean(0), flats.std(0)
    return [
        space.restore(mean + spread * torch.randn(mean.shape, generator=generator), anchors[0]) for _ in range(SAMPLES)
    ]


def ensemble(architecture: Architecture, networks: list[Weights], images: Images) -> dict[str, Any]:
    """The mean of their probabilities: accuracy, negative log-likelihood in nats and expected calibration error."""
    outputs = predict_stack(architecture.build(), stack_weights(networks), images.inputs)
    probabilities = outputs.softmax(-1)
    mean = probabilities.mean(0)
    each = (outputs.argmax(-1) == images.labels).float().mean(1)
    return {
        "networks": len(networks),
        "member_accuracy": float(each.mean()),
        "accuracy": float((mean.argmax(-1) == images.labels).float().mean()),
        "nll": float(functional.nll_loss(mean.clamp_min(1e-12).log(), images.labels)),
        "calibration_error": calibration_error(mean, images.labels),
    }


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Guo et al. (2017): fifteen bins of equal width, confidence against accuracy."""
    confidence, answers = probabilities.max(-1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    right = (answers == labels).float()
    gaps = [abs(float((confidence - right)[bins == number].sum())) for number in range(BINS)]
    return sum(gaps) / len(labels)


if __name__ == "__main__":
    carry_out({"scaling": scaling, "limits": limits, "ensembles": ensembles}, __doc__ or "")
