"""Responses beside tokens: in the order of rows, permuted with them, seen by summaries, and never by latents."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from garden import GARDEN, planted
from test_responses import questions_for
from tools import TINY_SANE, TINY_TRAINING, Fitted, fresh_sane, refused, run
from weightspace.analysis.predicting.calibrating import fit_predictor
from weightspace.autoencoder.coding import encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import DistillConfig
from weightspace.autoencoder.training.distilling import distill
from weightspace.autoencoder.training.feeding import BatchQueue
from weightspace.autoencoder.training.objective import Objective
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.asking import ask_corpus
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import opened_corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.gathering import window_gather
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.row_responses import (
    OF_UNITS,
    ROW_NUMBERS,
    ResponseScale,
    Spread,
    count_rows,
    responses_of_rows,
    token_rows,
)
from weightspace.corpus.views import Views, WindowSource, whole_networks
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.responses.asking import Asker
from weightspace.responses.config import AskConfig
from weightspace.responses.questions import draw_questions
from weightspace.symmetry.axes import Symmetry, permute, random_permutations
from weightspace.tokens.layout import TokenLayout, plan_layout
from weightspace.weights.values import Role, find_aliases
from weightspace.zoo.zoo import Zoo

HEARING = replace(TINY_SANE, responses="seen")


@pytest.fixture(scope="module")
def heard(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_preparation(parts[0], PreparationConfig(), tmp_path_factory.mktemp("corpus"), ask=True)


@pytest.fixture(scope="module")
def hearing(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model that sees what units do."""
    folder = tmp_path_factory.mktemp("models") / "hearing"
    pretrain(parts[0], HEARING, TINY_TRAINING, out=folder)
    return folder


def asked(name: str) -> tuple[Asker, dict[str, torch.Tensor], TokenLayout, Symmetry]:
    """A network of the garden: who asks it, its weights, the layout of its tokens, and what may be permuted."""
    module, example, traced = planted(name)
    weights = dict(module.state_dict())
    roles = {name: Role(*use) for name, use in traced.uses.items()}
    layout = plan_layout(weights, 16, roles=roles, aliases=find_aliases(weights))
    return Asker(module, questions_for(example, 32)), weights, layout, traced.symmetry


def rows_asked(asker: Asker, weights: dict[str, torch.Tensor], layout: TokenLayout) -> torch.Tensor:
    return responses_of_rows(asker.ask(weights), asker, layout, {name: name for name in weights})


def test_windows_of_permuted_networks_show_what_permuted_networks_do(heard: Fitted) -> None:
    preparation, corpus = heard
    (part,) = corpus.parts
    frame, layout = part.frame, part.frame.layout
    assert frame.symmetry is not None and part.heard is not None and preparation.heard is not None
    source = WindowSource(corpus, window=len(layout), batch_size=4)
    gather = source._gathers[0]
    token = np.tile(np.arange(len(layout)), (3, 1))
    moves = gather.draw(token, torch.Generator().manual_seed(1))
    shown = part.heard.take(torch.arange(3)[:, None], torch.from_numpy(gather.row(token, moves)))
    scale = preparation.heard.of(part.key, layout)
    for number in range(3):
        permutations, start = {}, 0
        for group, size in frame.symmetry.groups.items():
            permutations[group] = torch.from_numpy(moves[number, start : start + size]) + torch.arange(size)
            start += size
        architecture = preparation.architectures[str(part.table["architecture"].iloc[number])]
        weights = frame.network(frame.statistics.apply(part.flat[number], layout), architecture, {})
        asker = Asker(architecture.build(), draw_questions([architecture.example_shape or ()]))
        moved = permute(weights, frame.symmetry, permutations)
        rows = responses_of_rows(asker.ask(moved), asker, layout, frame.own_names(architecture))
        places = token_rows(layout)
        torch.testing.assert_close(
            shown[number], scale.apply(rows[places], places), rtol=1e-3, atol=2e-3, equal_nan=True
        )
    assert not torch.allclose(shown[0], part.heard.whole(slice(0, 1), layout)[0])


@pytest.mark.parametrize("name", GARDEN)
def test_in_every_network_of_the_garden_what_a_row_is_said_to_do_moves_with_it(name: str) -> None:
    """Rows that are no units, or of which nobody knows it, would not: embeddings, stacked recurrent layers."""
    asker, weights, layout, symmetry = asked(name)
    drawn = random_permutations(symmetry, torch.Generator().manual_seed(0))
    before, after = (rows_asked(asker, own, layout) for own in (weights, permute(weights, symmetry, drawn)))
    moves = [drawn[group].numpy() - np.arange(size) for group, size in symmetry.groups.items()]
    token = np.arange(len(layout))[None]
    moved = window_gather(layout, symmetry).row(token, np.concatenate([*moves, [0]])[None])[0]
    torch.testing.assert_close(
        before[torch.from_numpy(moved)], after[token_rows(layout)], rtol=1e-2, atol=5e-3, equal_nan=True
    )
    known = ~before.isnan()
    # All numbers of a unit are known or none, and outputs are known where units are.
    assert torch.equal(known[:, :OF_UNITS].all(1), known[:, :OF_UNITS].any(1))
    assert before.shape == (count_rows(layout), ROW_NUMBERS) and not (known[:, -1] & ~known[:, 0]).any()
    assert known[:, 0].any() and before[known].isfinite().all()


def test_a_row_has_the_numbers_of_its_unit_and_the_last_layer_those_of_the_outputs() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    asker, weights = Asker(module, draw_questions([(1, 5)])), dict(module.state_dict())
    rows, responses = rows_asked(asker, weights, plan_layout(weights, 8)), asker.ask(weights)
    torch.testing.assert_close(rows[:4, :OF_UNITS], responses.units["0"])
    torch.testing.assert_close(rows[4:, :OF_UNITS], responses.units["2"])
    assert rows[:4, OF_UNITS:].isnan().all()
    torch.testing.assert_close(rows[4:, OF_UNITS:], responses.outputs[0].expand(3, -1))


def test_gates_of_a_recurrent_layer_have_the_numbers_of_their_unit_and_an_embedding_has_none() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(12, 6)
            self.lstm = nn.LSTM(6, 5, batch_first=True)
            self.out = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(self.words(x))[0][:, -1])

    module = Reader().eval()
    weights = dict(module.state_dict())
    asker = Asker(module, draw_questions([(1, 7)], integers=[12]))
    layout = plan_layout(weights, 8)
    rows = rows_asked(asker, weights, layout)
    blocks = dict(
        zip([block.name for block in layout.blocks], rows.split([b.rows for b in layout.blocks]), strict=True)
    )
    assert blocks["words.weight"].isnan().all()
    gates = blocks["lstm.weight_ih_l0"][:, :OF_UNITS]
    assert gates.isfinite().all()
    for gate in range(1, 4):
        assert torch.equal(gates[:5], gates[5 * gate : 5 * gate + 5])


def test_standardised_numbers_have_no_mean_and_spread_one_and_stay_within_four(heard: Fitted) -> None:
    preparation, corpus = heard
    (part,) = corpus.parts
    assert part.heard is not None and preparation.heard is not None
    whole = part.heard.whole(slice(None), part.frame.layout)
    units = whole[:, : part.frame.layout.blocks[0].count, :OF_UNITS].flatten(0, 1)
    assert units.mean(0).abs().max() < 0.3 and 0.6 < float(units.std(0).median()) < 1.2
    assert whole[~whole.isnan()].abs().max() <= 4
    again = ResponseScale.from_json(json.loads(json.dumps(preparation.heard.to_json())))
    assert again == preparation.heard


def test_layers_that_were_never_seen_have_the_scale_of_all(heard: Fitted) -> None:
    preparation = heard[0]
    assert preparation.heard is not None
    layout = plan_layout({"weight": torch.zeros(3, 4)}, 8)
    scale = preparation.heard.of("another", layout)
    assert scale.mean.shape == (3, ROW_NUMBERS)
    torch.testing.assert_close(scale.std[0], torch.tensor(preparation.heard.pooled.std))
    assert isinstance(preparation.heard.pooled, Spread)


def test_a_corpus_that_was_closed_hears_the_same(heard: Fitted) -> None:
    closed = heard[1].closed()
    assert closed.parts[0].heard is not None and len(closed.parts[0].heard.values) == 0
    opened, first = closed.opened().parts[0], heard[1].parts[0]
    assert opened.heard is not None and first.heard is not None
    torch.testing.assert_close(
        opened.heard.whole(slice(0, 2), first.frame.layout),
        first.heard.whole(slice(0, 2), first.frame.layout),
        equal_nan=True,
    )


def test_latents_are_made_of_weights_alone_and_summaries_of_both(heard: Fitted) -> None:
    preparation, corpus = heard
    sane, part = fresh_sane(preparation, HEARING), corpus.parts[0]
    tokens, layout = whole_networks(part, part.flat[:2]), part.frame.layout
    assert part.heard is not None
    known = part.heard.whole(slice(0, 2), layout)
    latents = [encode_tokens(sane.network, tokens, layout, heard=told) for told in (None, known)]
    assert torch.equal(*latents)
    summaries = [encode_tokens(sane.network, tokens, layout, heard=told, summaries=True) for told in (None, known)]
    assert summaries[0].shape[-1] == sane.network.summary_width == HEARING.latent_width + ROW_NUMBERS
    assert not torch.allclose(summaries[0], summaries[1])
    # A token of which nothing is known is not moved by what is known of others.
    silent = torch.full_like(known, torch.nan)
    silent[:, 0] = known[:, 0]
    moved = encode_tokens(sane.network, tokens, layout, heard=silent, summaries=True) - summaries[0]
    assert moved[:, 0].abs().max() > 1e-3 and moved[:, 1:].abs().max() < 1e-5


def test_what_nobody_knows_is_no_target(heard: Fitted) -> None:
    preparation, corpus = heard
    objective = Objective(fresh_sane(preparation, HEARING).network, TINY_TRAINING)
    batch = WindowSource(corpus, window=6, batch_size=4).draw(torch.Generator().manual_seed(0), Views((False, True)))
    assert batch.heard is not None
    losses = [objective(batch._replace(heard=told)).statistics for told in (batch.heard, batch.heard * torch.nan)]
    assert losses[1].isfinite() and not torch.isclose(*losses)
    alone = objective(batch._replace(heard=None)).statistics
    torch.testing.assert_close(losses[1], alone)


def test_training_tells_what_units_do_better_than_their_mean(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    training = replace(TINY_TRAINING, steps=150, statistics_weight=1.0)
    sane = pretrain(parts[0], HEARING, training, out=tmp_path / "sane")
    with opened_corpus(parts[1], sane.preparation) as corpus:
        (part,) = ask_corpus(parts[1], sane.preparation, corpus).parts
        assert part.heard is not None
        known, layout = part.heard.whole(slice(None), part.frame.layout), part.frame.layout
        tokens = whole_networks(part, part.flat)
        summaries = encode_tokens(sane.network, tokens, layout, summaries=True, heard=known)
        told = sane.network.statistics(summaries).detach()
    told, there = told[..., -ROW_NUMBERS:], ~known.isnan()
    error = (told - known.nan_to_num())[there].square().mean()
    assert float(error) < 0.5 * float(known[there].square().mean())


def test_a_network_alone_is_embedded_as_in_its_zoo(hearing: Path, parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    sane = SANE.open(hearing)
    embedded = sane.embed(parts[1], "readout")
    assert embedded.passes == 256 and embedded.notes == ()
    # Members are aligned by their last epoch.
    row = int(np.flatnonzero(parts[1].table["epoch"] == 2)[0])
    architecture = parts[1].architectures[str(parts[1].table["architecture"].iloc[row])]
    alone = SANE.open(hearing, given=[architecture]).embed_network(parts[1].weights(row), "readout")
    np.testing.assert_allclose(alone.vector, embedded.features[row], rtol=1e-3, atol=1e-3)
    assert "asked with 128 noise inputs" in alone.assumed and alone.passes == 256
    # Two architectures of the zoo have these shapes and other activations: nobody knows what it computes.
    silent = sane.embed_network(parts[1].weights(row), "readout")
    assert silent.passes == 0 and "not asked what it does" in silent.assumed[-1]
    assert "found 2 architectures with its names and shapes" in silent.assumed[-1]
    assert silent.vector.shape == alone.vector.shape and silent.vector.isfinite().all()


def test_networks_that_cannot_be_run_are_embedded_by_weights_alone_and_that_is_said(
    hearing: Path, parts: tuple[Zoo, ...]
) -> None:
    strangers = {name: replace(own, factory=None) for name, own in parts[1].architectures.items()}
    embedded = SANE.open(hearing).embed(replace(parts[1], architectures=strangers))
    assert embedded.passes == 0 and "not asked what they do (expected a network that can be run" in embedded.notes[0]


def test_names_of_a_wrapper_are_asked_as_those_of_the_architecture(hearing: Path, parts: tuple[Zoo, ...]) -> None:
    weights, name = parts[1].weights(0), str(parts[1].table["architecture"].iloc[0])
    sane = SANE.open(hearing, given=[parts[1].architectures[name]])
    wrapped = {f"model.{key}": tensor for key, tensor in weights.items()}
    plain, found = sane.embed_network(weights), sane.embed_network(wrapped)
    torch.testing.assert_close(plain.vector, found.vector)
    assert found.passes == plain.passes == 256
    assert not torch.allclose(plain.vector, sane.embed_network(weights, ask=False).vector)
    halves = {key: tensor.half().float() for key, tensor in weights.items()}
    stored = sane.embed_network({key: tensor.half() for key, tensor in weights.items()})
    torch.testing.assert_close(stored.vector, sane.embed_network(halves).vector)


def test_a_member_is_nearest_to_itself_and_predicted_as_its_zoo_tells(
    hearing: Path, zoo_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names and shapes do not tell the activation of these members; their zoo does."""
    last = zoo.last()
    save_file(last.weights(3), tmp_path / "one.safetensors")
    member = str(last.table["member"].iloc[3])
    words = ("similar", hearing, zoo_folder, tmp_path / "one.safetensors", "-k", 2, "--json")
    assert "expected a network that can be asked, as those of the zoo were" in refused(capsys, *words)
    shape = f"weightspace.zoo.growing.networks:mlp?widths=[64,8,10]&activation={last.table['activation'].iloc[3]}"
    _, said, _ = run(capsys, *words, "--architecture", shape, "--example", "1,1,8,8")
    nearest = json.loads(said)
    assert (nearest[0]["member"], nearest[0]["epoch"]) == (member, 2) and nearest[0]["distance"] < 1e-3
    copy = SANE.open(hearing).embed_network(last.weights(3), architecture=last.architectures[_architecture(last, 3)])
    assert copy.passes == 256
    predictor = fit_predictor(SANE.open(hearing), zoo.split(0.6, 0.2, 0.2, seed=1), ask=AskConfig())
    sane, kinds = SANE.open(hearing), last.architectures
    told = [predictor.predict(sane, last.weights(row), kinds[_architecture(last, row)]) for row in range(8)]
    assert sum(not one.reason for one in told) > 4


def _architecture(zoo: Zoo, row: int) -> str:
    return str(zoo.table["architecture"].iloc[row])


def test_processes_share_what_is_known_of_a_batch(heard: Fitted) -> None:
    """Their shares of the statistics' loss add up to that of the whole batch."""
    source = WindowSource(heard[1], window=6, batch_size=8)
    config = replace(TINY_TRAINING, contrastive_weight=0.0)
    network = fresh_sane(heard[0], HEARING).network
    whole = Objective(network, config)(BatchQueue(source, config).draw(0).batch).statistics
    parts = [BatchQueue(source, config, rank, 4).draw(0) for rank in range(4)]
    losses = [Objective(network, config)(one.batch, one.scale, one.share, one.spread).statistics for one in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_predicted_responses_ask_nothing_when_networks_are_embedded(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    sane = pretrain(parts[0], replace(TINY_SANE, responses="predicted"), TINY_TRAINING, out=tmp_path / "sane")
    again = SANE.open(tmp_path / "sane")
    embedded = again.embed(parts[1], "readout")
    assert embedded.passes == 0 and embedded.notes == ()
    assert sane.network.statistics.out_features == 22 + ROW_NUMBERS
    np.testing.assert_allclose(embedded.features, sane.embed(parts[1], "readout").features, rtol=1e-4, atol=1e-5)


def test_distilling_keeps_telling_what_units_do(
    hearing: Path, parts: tuple[Zoo, ...], digits: ImageSet, tmp_path: Path
) -> None:
    config = DistillConfig(steps=2, networks=3, queries=4, statistics_weight=1.0)
    distilled = distill(hearing, parts[0], digits.train, config, out=tmp_path / "distilled")
    before, after = (load_file(folder / "model.safetensors") for folder in (hearing, tmp_path / "distilled"))
    assert not torch.equal(before["heard_to_summary.weight"], after["heard_to_summary.weight"])
    assert distilled.embed(parts[1]).passes == 256


def test_refusals(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected tokens of one row .* found packed: use --token-style rows"):
        fit_preparation(parts[0], PreparationConfig(token_style="packed"), tmp_path, ask=True)
    with pytest.raises(InputError, match="expected a linear path, beside which responses are seen"):
        SANEConfig(responses="seen", linear_path=False)
    silent = replace(TINY_TRAINING, statistics_weight=0.0)
    with pytest.raises(InputError, match="expected a weight for the statistics, .* found 0: use --statistics-weight"):
        pretrain(parts[0], HEARING, silent, out=tmp_path / "silent")
    strangers = {name: replace(own, factory=None) for name, own in parts[0].architectures.items()}
    with pytest.raises(InputError, match="expected a network that can be run"):
        fit_preparation(replace(parts[0], architectures=strangers), PreparationConfig(), tmp_path / "b", ask=True)
    saved = tmp_path / "preparation"
    fit_preparation(parts[0], PreparationConfig(), tmp_path / "c")[0].save(saved)
    assert Preparation.open(saved).heard is None


def test_the_command_line_trains_a_model_that_sees_and_says_what_asking_costs(
    zoo_folder: Path, zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "z.parquet"
    words = ("--steps", 4, "--model-width", 16, "--heads", 2, "--layers", 1, "--latent-width", 8, "--window", 16)
    run(capsys, "pretrain", zoo_folder, "--out", model, "--responses", "seen", *words)
    _, said, _ = run(capsys, "embed", model, zoo_folder, "--out", out)
    assert "every network that was asked cost 256 forward passes" in said and len(pd.read_parquet(out)) == len(zoo)
    save_file(zoo.weights(0), tmp_path / "one.safetensors")
    _, said, _ = run(capsys, "embed", model, tmp_path / "one.safetensors", "--out", tmp_path / "one.parquet")
    assert "not asked what it does" in said
    assert "use --linear-path" in refused(
        capsys, "pretrain", zoo_folder, "--out", tmp_path / "b", "--responses", "seen", "--no-linear-path"
    )
