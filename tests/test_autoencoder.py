import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tools import TINY_SANE, TINY_TRAINING, fresh_sane, train, wait_for
from weightspace.autoencoder.coding import Latents, decode_latents, encode_corpus, encode_part, encode_tokens
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.network import (
    OF_A_PART,
    LearnedPositions,
    Network,
    SinusoidalPositions,
    Transformer,
    token_statistics,
)
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.loop import TrainingStopped
from weightspace.autoencoder.training.objective import Objective, masked_mse, nt_xent, statistics_loss
from weightspace.autoencoder.training.pretraining import effective_rank, pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.corpus import Corpus, CorpusPart, opened_corpus
from weightspace.corpus.fitting import fit_preparation
from weightspace.corpus.preparation import Preparation
from weightspace.corpus.views import Batch, Views, WindowSource
from weightspace.errors import InputError
from weightspace.images import ImageSet
from weightspace.outputs import partial_path
from weightspace.tokens.layout import plan_layout
from weightspace.tokens.patterns import Entries
from weightspace.weights.files import read_weights, write_weights
from weightspace.zoo.growing.config import GrowConfig
from weightspace.zoo.growing.growing import grow
from weightspace.zoo.writing import ZooWriter
from weightspace.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def fitted(parts: tuple[Zoo, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Preparation, Corpus]:
    return fit_preparation(parts[0], PreparationConfig(), tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def sane(sane_folder: Path) -> SANE:
    return SANE.open(sane_folder)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


# Losses


@given(count=st.integers(2, 9), width=st.integers(2, 6), temperature=st.sampled_from([0.05, 0.1, 1.0]))
def test_nt_xent_is_the_double_loop(count: int, width: int, temperature: float) -> None:
    first, second = torch.randn(count, width), torch.randn(count, width)
    rows = [row / row.norm() for row in torch.cat([first, second])]
    total = 0.0
    for i, row in enumerate(rows):
        partner = (i + count) % (2 * count)
        others = [float(torch.exp(row @ other / temperature)) for j, other in enumerate(rows) if j != i]
        total -= float(np.log(float(torch.exp(row @ rows[partner] / temperature)) / sum(others)))
    assert abs(float(nt_xent(first, second, temperature)) - total / (2 * count)) < 1e-3


def test_the_reconstruction_loss_ignores_padding() -> None:
    predicted, target = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    mask = torch.rand(3, 5, 4) > 0.4
    loss = masked_mse(predicted, target, mask)
    assert torch.isclose(loss, ((predicted - target)[mask] ** 2).mean())
    changed = torch.where(mask, target, 99.0)
    assert torch.equal(masked_mse(predicted, changed, mask), loss)
    padded = [torch.cat([part, torch.zeros_like(part)], dim=-1) for part in (predicted, target)]
    wider = torch.cat([mask, torch.zeros_like(mask)], dim=-1)
    assert torch.isclose(masked_mse(padded[0], padded[1], wider), loss)


def test_the_effective_rank_counts_dimensions() -> None:
    flat = torch.randn(2000, 6) * torch.tensor([1.0, 1, 1, 0, 0, 0])
    assert 2.9 < effective_rank(flat) < 3.05


# The network


def test_the_transformer_is_torchs() -> None:
    width, heads, layers = 16, 4, 2
    ours = Transformer(width, layers, heads, 0.0)
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, bias=False
    )
    theirs = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    with torch.no_grad():
        for block, other in zip(ours.blocks, theirs.layers, strict=True):
            other.get_parameter("self_attn.in_proj_weight").copy_(block.get_parameter("query_key_value.weight"))
            other.get_parameter("self_attn.out_proj.weight").copy_(block.get_parameter("attention_out.weight"))
            other.get_parameter("linear1.weight").copy_(block.get_parameter("mlp_in.weight"))
            other.get_parameter("linear2.weight").copy_(block.get_parameter("mlp_out.weight"))
            other.get_parameter("norm1.weight").copy_(block.get_parameter("attention_norm.weight"))
            other.get_parameter("norm2.weight").copy_(block.get_parameter("mlp_norm.weight"))
    x, present = torch.randn(3, 7, width), torch.ones(3, 7, dtype=torch.bool)
    present[1, 4:] = False
    expected = theirs(x, src_key_padding_mask=~present)
    torch.testing.assert_close(ours(x, present)[present], expected[present], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def small_model(fitted: tuple[Preparation, Corpus], **changes: object) -> SANE:
    config = SANEConfig(**{"latent_width": 6, "model_width": 16, "layers": 2, "heads": 2, **changes})  # type: ignore[arg-type]
    return fresh_sane(fitted[0], config, window=8)


def windows(count: int = 4, length: int = 8) -> tuple[torch.Tensor, torch.Tensor, Entries]:
    positions = torch.randint(0, 20, (count, length, 4))
    real = torch.ones(count, length, 65, dtype=torch.bool)
    return torch.randn(count, length, 65), positions, Entries(real, ~real)


def test_samples_do_not_see_each_other_but_tokens_do(fitted: tuple[Preparation, Corpus]) -> None:
    model = small_model(fitted).network
    tokens, positions, entries = windows()
    before = model.encode(tokens, positions, entries).summaries
    tokens[2] += 1
    after = model.encode(tokens, positions, entries).summaries
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]]) and not torch.allclose(after[2], before[2])
    tokens[0, 4] += 1
    moved = model.encode(tokens, positions, entries).summaries
    assert (moved[0, 0] - after[0, 0]).abs().max() > 1e-5


def test_absent_tokens_change_nothing(fitted: tuple[Preparation, Corpus]) -> None:
    model = small_model(fitted).network
    tokens, positions, entries = windows()
    present = torch.ones(4, 8, dtype=torch.bool)
    alone = model.encode(tokens, positions, entries, present)
    more, where, others = windows(length=3)
    padded = model.encode(
        torch.cat([tokens, more], 1),
        torch.cat([positions, where], 1),
        Entries(*(torch.cat(own, 1) for own in zip(entries, others, strict=True))),
        torch.cat([present, torch.zeros(4, 3) > 1], 1),
    )
    for name in ("latents", "summaries"):
        seen, whole = getattr(padded, name)[:, :8], getattr(alone, name)
        torch.testing.assert_close(seen, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.project(padded.summaries, torch.cat([present, torch.zeros(4, 3) > 1], 1)),
        model.project(alone.summaries, present),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_training_loss_ignores_padding(fitted: tuple[Preparation, Corpus]) -> None:
    model, length = small_model(fitted).network, len(fitted[1].parts[0].frame.layout)
    exact, longer = (
        WindowSource(fitted[1], window=window, batch_size=4).draw(
            torch.Generator().manual_seed(0), Views(permuted=(False, False))
        )
        for window in (length, length + 5)
    )
    config = TrainConfig()
    with torch.no_grad():
        torch.testing.assert_close(
            Objective(model, config)(exact).total, Objective(model, config)(longer).total, rtol=1e-4, atol=1e-5
        )


def test_the_flattened_head_is_the_papers(fitted: tuple[Preparation, Corpus]) -> None:
    model = small_model(fitted, projection="flatten").network
    assert model.head[0].in_features == 8 * 6
    latents = torch.randn(3, 8, 6)
    assert model.project(latents, torch.ones(3, 8, dtype=torch.bool)).shape == (3, 30)


def test_sinusoids_reach_any_position() -> None:
    module = SinusoidalPositions(32)
    far = torch.tensor([[10**6, 5000, 10**5, 300], [10**6 + 1, 5000, 10**5, 300]])
    made = module(far)
    assert made.isfinite().all() and (made[0] - made[1]).abs().max() > 1e-3


def test_learned_positions_end_with_a_sentence(fitted: tuple[Preparation, Corpus]) -> None:
    module = LearnedPositions(8, (10, 4, 10, 2))
    assert module(torch.zeros(2, 3, 4, dtype=torch.int64)).shape == (2, 3, 8)
    with pytest.raises(InputError, match="expected layer positions below 4 for learned tables, found 4"):
        module(torch.tensor([[0, 4, 0, 0]]))
    assert small_model(fitted, positions="learned").network.encode(*windows()).latents.shape == (4, 8, 6)


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by the number of heads, found 10 and 4"):
        Transformer(10, 1, 4, 0.0)


# Training


def trained(fitted: tuple[Preparation, Corpus], folder: Path, config: TrainConfig, **options: object) -> nn.Module:
    folder.mkdir(exist_ok=True)
    model = fresh_sane(fitted[0], window=config.window, seed=config.seed)
    train(model, fitted[1], config, folder, **options)  # type: ignore[arg-type]
    return model.network


def test_training_lowers_the_loss_and_is_reproducible(fitted: tuple[Preparation, Corpus], tmp_path: Path) -> None:
    config = TrainConfig(steps=60, window=16, batch_size=12, log_every=5)
    model = fresh_sane(fitted[0])
    history = train(model, fitted[1], config, tmp_path)
    assert history[-1]["reconstruction"] < 0.95 * history[0]["reconstruction"]
    assert {"loss", "contrastive", "effective_rank", "latent_norm", "gradient_norm", "weights_per_second"} <= set(
        history[0]
    )
    assert_equal_states(state(model.network), state(trained(fitted, tmp_path / "again", config)))


def test_stopped_at_any_step_and_resumed_training_ends_the_same(
    fitted: tuple[Preparation, Corpus], tmp_path: Path
) -> None:
    config = TINY_TRAINING
    whole = state(trained(fitted, tmp_path / "whole", config))
    for stop in (1, 5, 8):

        def interrupt(step: int, stop: int = stop) -> dict[str, float]:
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)
            return {}

        folder = tmp_path / f"stop-{stop}"
        with pytest.raises(TrainingStopped, match=f"stopped after step {stop} of 12"):
            trained(fitted, folder, config, observers=[(1, interrupt)])
        assert_equal_states(state(trained(fitted, folder, config, resume=True)), whole)


def test_killed_training_resumes_from_its_last_saved_state(sane_folder: Path, zoo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "weightspace", "pretrain", str(zoo_folder), "--out", str(tmp_path / "sane")]
    command += "--steps 60 --save-every 5 --window 8 --model-width 16 --layers 1 --heads 2 --batch-size 8".split()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    saved = partial_path(tmp_path / "sane") / "state.pt"
    wait_for(saved)
    process.kill()
    process.communicate()
    assert saved.exists() and not (tmp_path / "sane").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    command[command.index(str(tmp_path / "sane"))] = str(tmp_path / "whole")
    subprocess.run(command, check=True, capture_output=True)
    assert_equal_states(state(SANE.open(tmp_path / "sane").network), state(SANE.open(tmp_path / "whole").network))


def test_training_works_outside_the_main_thread(fitted: tuple[Preparation, Corpus], tmp_path: Path) -> None:
    done: list[nn.Module] = []
    thread = threading.Thread(target=lambda: done.append(trained(fitted, tmp_path, TINY_TRAINING)))
    thread.start()
    thread.join()
    assert_equal_states(state(done[0]), state(trained(fitted, tmp_path, TINY_TRAINING)))


def test_a_resumed_run_must_be_the_same_run(parts: tuple[Zoo, ...], tmp_path: Path) -> None:
    def stop(step: int, model: SANE) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(parts[0], TINY_SANE, TINY_TRAINING, out=tmp_path / "s", observers=[(6, stop)])
    other = SANEConfig(latent_width=4, model_width=16, layers=1, heads=2)
    with pytest.raises(InputError, match="found another sane"):
        pretrain(parts[0], other, TINY_TRAINING, out=tmp_path / "s", existing="resume")
    less = parts[0].where(epoch=2)
    with pytest.raises(InputError, match="found another checkpoints"):
        pretrain(less, TINY_SANE, TINY_TRAINING, out=tmp_path / "s", existing="resume")
    changed = TrainConfig(**{**vars(TINY_TRAINING), "noise": 0.5})
    with pytest.raises(InputError, match="found another noise"):
        pretrain(parts[0], TINY_SANE, changed, out=tmp_path / "s", existing="resume")
    pretrain(parts[0], TINY_SANE, TINY_TRAINING, out=tmp_path / "s", existing="resume")
    assert (tmp_path / "s" / "model.safetensors").exists() and not partial_path(tmp_path / "s").exists()


def test_two_architectures_train_in_one_run(digits: ImageSet, tmp_path: Path) -> None:
    writer = ZooWriter(tmp_path / "both")
    for number, network in enumerate(("mlp:8", "mlp:12,6")):
        config = GrowConfig(members=5, epochs=1, activation="tanh", seed=number, plan="stacked", workers=1)
        grown = grow(network, digits, config, tmp_path / str(number))
        for piece in grown.stacks():
            table = piece.table.drop(columns=["architecture", "shard", "row"])
            writer.add(piece.architecture, piece.stack, table.assign(member=table["member"] + network))
    writer.finish({})
    zoo = Zoo.open(tmp_path / "both")
    model = pretrain(zoo, TINY_SANE, TINY_TRAINING, out=tmp_path / "sane")
    assert len(model.preparation.frames) == 2
    embeddings = SANE.open(tmp_path / "sane").embed(zoo)
    assert embeddings.features.shape == (20, 8) and np.isfinite(embeddings.features).all()
    with pytest.raises(InputError, match="expected networks with the same layers for readout"):
        model.embed(zoo, "readout")
    for row in (0, 15):
        weights = zoo.weights(row)
        prepared, latents = model.encode(weights)
        architecture = zoo.architectures[zoo.table["architecture"].iloc[row]]
        architecture.build().load_state_dict(model.decode(latents, architecture, prepared.carried), strict=True)


def test_observers_join_the_history(fitted: tuple[Preparation, Corpus], tmp_path: Path) -> None:
    seen = []

    model = fresh_sane(fitted[0])

    def observe(step: int) -> dict[str, float]:
        seen.append((step, model.network.training))
        return {"watched": float(step)}

    history = train(model, fitted[1], TINY_TRAINING, tmp_path, observers=[(5, observe)])
    assert seen == [(5, False), (10, False), (12, False)]
    assert history[-1]["watched"] == 12


def test_without_contrast_one_view_is_enough(fitted: tuple[Preparation, Corpus], tmp_path: Path) -> None:
    config = TrainConfig(**{**vars(TINY_TRAINING), "contrastive_weight": 0.0, "statistics_weight": 0.0})
    model = fresh_sane(fitted[0])
    history = train(model, fitted[1], config, tmp_path)
    assert history[-1]["loss"] == history[-1]["reconstruction"] and history[-1]["contrastive"] == 0


def test_impossible_training_is_refused(fitted: tuple[Preparation, Corpus], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected steps to be at least 1, found 0"):
        TrainConfig(steps=0)


# A trained folder


def test_a_model_from_its_folder_gives_the_same_embeddings_in_another_process(
    sane: SANE, sane_folder: Path, zoo_folder: Path, tmp_path: Path
) -> None:
    code = (
        "import weightspace as ws, numpy as np, torch\ntorch.set_num_threads(1)\n"
        f"e = ws.SANE.open({str(sane_folder)!r}).embed(ws.Zoo.open({str(zoo_folder)!r}), 'mean+spread')\n"
        f"np.save({str(tmp_path / 'e.npy')!r}, e.features)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    here = sane.embed(Zoo.open(zoo_folder), "mean+spread").features
    assert np.array_equal(np.load(tmp_path / "e.npy"), here)


def test_the_folder_is_complete(sane_folder: Path, parts: tuple[Zoo, ...]) -> None:
    names = {path.name for path in sane_folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preparation", "history.json", "manifest.json"}
    assert SANE.open(sane_folder).provenance.members == parts[0].members


def test_the_same_network_as_pt_and_safetensors_has_the_same_latents(sane: SANE, zoo: Zoo, tmp_path: Path) -> None:
    weights = zoo.weights(4)
    torch.save(weights, tmp_path / "a.pt")
    write_weights(tmp_path / "a.safetensors", weights)
    first, second = (sane.encode(read_weights(tmp_path / name))[1] for name in ("a.pt", "a.safetensors"))
    assert torch.equal(first, second)


def test_embeddings_are_in_the_order_of_the_table(sane: SANE, zoo: Zoo) -> None:
    shuffled = replace(zoo, table=zoo.table.sample(frac=1, random_state=0))
    whole, mixed = sane.embed(zoo), sane.embed(shuffled)
    order = [list(whole.table.index).index(label) for label in mixed.table.index]
    np.testing.assert_allclose(mixed.features, whole.features[order], rtol=1e-4, atol=1e-5)
    assert sane.embed(zoo, "mean+spread").features.shape == (72, 2 * 2 * 8)
    assert list(whole.to_table().columns[-2:]) == ["z6", "z7"]


def encoded(sane: SANE, zoo: Zoo) -> list[Latents]:
    with opened_corpus(zoo, sane.preparation) as corpus:
        return list(encode_corpus(sane.network, corpus))


def mean_and_spread(values: torch.Tensor, layers: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation over the tokens of each layer, side by side."""
    parts = [values[:, layers == layer] for layer in layers.unique(sorted=True)]
    return torch.cat([moment for own in parts for moment in (own.mean(1), own.std(1, correction=0))], dim=1)


def test_every_aggregation_is_of_the_same_summaries(sane: SANE, parts: tuple[Zoo, ...]) -> None:
    with opened_corpus(parts[1], sane.preparation) as corpus:
        (part,) = corpus.parts
        values = torch.cat(list(encode_part(sane.network, part, summaries=True)))
    layers = part.positions[:, 1]
    expected = {
        "mean": values.mean(1),
        "mean+spread": mean_and_spread(values, layers),
        "readout": mean_and_spread(sane.network.statistics(values), layers).detach(),
        "sequence": values.flatten(1),
    }
    for name, features in expected.items():
        np.testing.assert_allclose(sane.embed(parts[1], name).features, features, rtol=1e-4, atol=1e-5)


def test_short_tokens_are_latents_as_they_are_and_no_latent_has_more_numbers_than_weights() -> None:
    network = Network(SANEConfig(latent_width=6, model_width=16, layers=1, heads=2), 9, window=4)
    tokens, positions = torch.randn(2, 4, 9), torch.zeros(2, 4, 4, dtype=torch.int64)
    weights = torch.tensor([3, 6, 7, 9])
    mask = (torch.arange(9) < weights[:, None]).expand(2, -1, -1)
    entries = Entries(mask, torch.zeros_like(mask))
    tokens = tokens * mask
    latents = network.encode(tokens, positions, entries).latents
    # What transformers add begins at zero.
    torch.testing.assert_close(latents[:, 0, :3], tokens[:, 0, :3])
    torch.testing.assert_close(latents[:, 1], tokens[:, 1, :6])
    assert not latents[:, 0, 3:].any() and latents[:, 2:].all()
    decoded = network.decode(latents, positions, entries)
    torch.testing.assert_close(decoded[:, :2] * mask[:, :2], tokens[:, :2])
    beyond = latents.clone()
    beyond[:, 0, 3:] = 7.0
    torch.testing.assert_close(network.decode(beyond, positions, entries), decoded)
    assert (decoded[:, 3] - tokens[:, 3]).abs().max() > 0.1


def test_rates_shrink_inside_wider_models_only() -> None:
    network = Network(SANEConfig(model_width=256, layers=1), 9, window=4)
    scales = {name: network.rate_scale(name) for name, _ in network.named_parameters()}
    inside = ("encoder.blocks.0.mlp_in.weight", "decoder.blocks.0.attention_out.weight", "latent_out.weight")
    outside = (
        "token_in.weight",
        "latent_in.weight",
        "positions.mix.weight",
        "token_to_latent.weight",
        "latent_out.bias",
    )
    assert {scales[name] for name in inside} == {0.25} and {scales[name] for name in outside} == {1.0}
    assert set(scales.values()) == {0.25, 1.0}
    narrow = Network(SANEConfig(layers=1), 9, window=4)
    assert {narrow.rate_scale(name) for name, _ in narrow.named_parameters()} == {1.0}


def test_token_statistics_are_those_of_weights_and_biases_apart() -> None:
    values = torch.tensor([[1.0, -3.0, 0.5, 0.0], [2.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    bias = torch.tensor([[False, False, True, False], [False] * 4])
    found = token_statistics(values, Entries(mask, bias))
    logarithm = (np.log(1.01) + np.log(3.01)) / 2
    squares = (np.log(2) + np.log(10)) / 2
    weights = [
        np.arcsinh(-1.0),
        np.arcsinh(2.0),
        logarithm,
        squares,
        np.arcsinh(np.sqrt(5)),
        0.5,
        0.5,
        0.5,
        0.5,
        0.75,
        1.0,
    ]
    half = np.arcsinh(0.5)
    own = [half, half, np.log(0.51), np.log(1.25), half, 0.0, 0.0, 0.0, 0.3, 1.0, 1.0]
    np.testing.assert_allclose(found[0], [*weights, *own], rtol=1e-5, atol=1e-6)
    assert found[1, len(OF_A_PART) :].abs().max() == 0
    changed = torch.where(mask, values, 99.0)
    assert torch.equal(token_statistics(changed, Entries(mask, bias)), found)


def test_statistics_count_alike_and_absent_tokens_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(3, 5, 22, generator=generator)
    predicted = true + torch.randn(true.shape, generator=generator)
    present = torch.ones(3, 5, dtype=torch.bool)
    present[:, 4] = False
    known = present[..., None].expand_as(true)
    seen, off = true[:, :4].flatten(0, 1), (predicted - true)[:, :4].flatten(0, 1)
    expected = (off / seen.std(0, correction=0)).square().mean()
    torch.testing.assert_close(statistics_loss(predicted, true, known), expected)
    wider = torch.linspace(1, 50, 22)
    torch.testing.assert_close(statistics_loss(predicted * wider, true * wider, known), expected)
    absent = torch.where(present[..., None], true, 7.0)
    torch.testing.assert_close(statistics_loss(predicted, absent, known), expected)


def test_results_do_not_depend_on_the_batch(sane: SANE, parts: tuple[Zoo, ...]) -> None:
    (latents,) = encoded(sane, parts[1])
    part = latents.part
    alone = encode_tokens(sane.network, part_tokens(part)[:1], part.frame.layout)
    torch.testing.assert_close(alone[0], latents.values[0], rtol=1e-4, atol=1e-5)


def part_tokens(part: CorpusPart) -> torch.Tensor:
    from weightspace.corpus.views import whole_networks

    return whole_networks(part, part.flat)


def test_long_sequences_are_encoded_in_haloed_windows(sane: SANE) -> None:
    for length in (1, 5, 16, 17, 40):
        tokens, layout = torch.randn(3, length, 65), plan_layout({"weight": torch.empty(length, 65)}, 65)
        latents = encode_tokens(sane.network, tokens, layout)
        assert latents.shape == (3, length, 8) and latents.isfinite().all()
        assert decode_latents(sane.network, latents, layout).shape == tokens.shape
    near = torch.randn(1, 60, 65)
    layout = plan_layout({"weight": torch.empty(60, 65)}, 65)
    far = near.clone()
    far[0, 50:] += 1  # far outside the window of the first tokens
    first, second = (encode_tokens(sane.network, tokens, layout) for tokens in (near, far))
    assert torch.equal(first[0, :12], second[0, :12]) and not torch.equal(first[0, 50:], second[0, 50:])


def test_restored_networks_are_complete(sane: SANE, zoo: Zoo) -> None:
    weights = zoo.weights(0)
    prepared, latents = sane.encode(weights)
    architecture = zoo.architectures[zoo.table["architecture"].iloc[0]]
    architecture.build().load_state_dict(sane.decode(latents, architecture, prepared.carried), strict=True)


def test_other_folders_and_aggregations_are_refused(sane: SANE, zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a trained SANE"):
        SANE.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="expected a trained SANE"):
        SANE.open(tmp_path)
    with pytest.raises(
        InputError, match="expected an aggregation among mean, mean\\+spread, readout, sequence, found 'max'"
    ):
        sane.embed(zoo, "max")


def test_a_damaged_model_is_refused(sane_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(sane_folder, tmp_path / "sane"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(InputError, match="expected a whole safetensors file"):
        SANE.open(folder)
    (folder / "model.safetensors").write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    changes: list[dict[str, Any]] = [{"window": None}, {"sane": {**config["sane"], "latent_width": 5}}, {"sane": {}}]
    for change in changes:
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match="expected"):
            SANE.open(folder)
    (folder / "config.json").write_text(json.dumps(config))
    references = (folder / "preparation" / "references.safetensors").read_bytes()
    (folder / "preparation" / "references.safetensors").write_bytes(references[:-8])
    with pytest.raises(InputError, match="expected a whole preparation"):
        SANE.open(folder)


def test_views_of_the_batch_are_what_the_loss_takes(fitted: tuple[Preparation, Corpus]) -> None:
    batch = WindowSource(fitted[1], window=8, batch_size=4).draw(
        torch.Generator().manual_seed(0), Views(permuted=(False, True))
    )
    assert isinstance(batch, Batch)
    found = Objective(small_model(fitted).network, TrainConfig())(batch)
    expected = 0.95 * found.reconstruction + 0.05 * found.contrastive + 0.3 * found.statistics
    torch.testing.assert_close(found.total, expected)
