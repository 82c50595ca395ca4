"""A population of adapters of one base, and what can be read from their weights: `python benchmarks/adapters.py`.

    grow       a transformer of bytes, trained on the language reference that Python carries, and adapters of it (LoRA,
               by PEFT): the code of five packages of the standard library x ranks x learning rates x steps x seeds
    read       task, rank, steps, learning rate and final loss, from the factors as they are stored, canonical forms,
               SANE on these, and what merged networks answer; members split at random, by task, and by rank
    alike      cosines of the changes of every two, by what the two have in common
    relatives  copies, other factors, other scales, adapters trained on, sums, merged networks: what inspect says
    interfere  sums of pairs of adapters: what they lose on both tasks, beside how far their changes meet

Everything is found where it was when it is run again: the base, every adapter, every table. Ten minutes of one core.
"""

import argparse
import csv
import itertools
import json
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from weightspace.analysis.inspecting.adapters import inner_products
from weightspace.analysis.inspecting.studying import study_folder
from weightspace.analysis.probing.classifying import classify
from weightspace.analysis.probing.probe import probe
from weightspace.analysis.representations.baselines import layer_statistics, raw_weights
from weightspace.analysis.representations.responses import respond
from weightspace.autoencoder.config import SANEConfig
from weightspace.autoencoder.sane import SANE
from weightspace.autoencoder.training.config import TrainConfig
from weightspace.autoencoder.training.pretraining import pretrain
from weightspace.corpus.config import PreparationConfig
from weightspace.corpus.frame import describe_module
from weightspace.errors import InputError
from weightspace.generation.adding import add_adapters
from weightspace.generation.joining import join_adapters, overlap
from weightspace.outputs import to_json
from weightspace.progress import progress_bar
from weightspace.responses.config import AskConfig
from weightspace.weights.adapters.changes import canonical_form
from weightspace.weights.adapters.merging import merge_adapter
from weightspace.weights.adapters.opening import open_adapter
from weightspace.zoo.embeddings import Embeddings, Representation
from weightspace.zoo.importing.config import ImportConfig
from weightspace.zoo.importing.importing import import_zoo
from weightspace.zoo.zoo import Zoo

BYTES, CONTEXT, SEED = 128, 64, 0
SIZES: dict[str, Any] = {
    "vocab_size": BYTES,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}
TASKS = ("asyncio", "email", "encodings", "unittest", "xml")
RANKS, RATES, STEPS, SEEDS = (1, 2, 4, 8, 16), (1e-3, 5e-3), (30, 120), (0, 1)
MODULES, ALPHA, BATCH = ["q_proj", "v_proj"], 16, 16
BASE_STEPS, BASE_BATCH = 2_000, 32
SHARES = (0.7, 0.15, 0.15)
TRAINING = TrainConfig(steps=600, window=32, seed=SEED)
TARGETS = ("task", "rank", "steps", "learning_rate", "loss")
Row = dict[str, Any]


class Recipe(NamedTuple):
    """What an adapter is trained with."""

    task: str
    rank: int
    learning_rate: float
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}-r{self.rank}-lr{self.learning_rate:g}-n{self.steps}-s{self.seed}"


RECIPES = [Recipe(*values) for values in itertools.product(TASKS, RANKS, RATES, STEPS, SEEDS)]


def documentation() -> Tensor:
    """The language reference, as bytes."""
    from pydoc_data.topics import topics

    return as_bytes("\n".join(topics.values()))


def source_code(package: str) -> tuple[Tensor, Tensor]:
    """The code of a package of the standard library: all but every tenth file, and these."""
    files = sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py"))
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
    parts = ["\n".join(t for n, t in enumerate(texts) if (n % 10 == 9) is held) for held in (False, True)]
    return as_bytes(parts[0]), as_bytes(parts[1])


def as_bytes(text: str) -> Tensor:
    """Letters of ASCII; others are left out."""
    return torch.tensor(list(text.encode("ascii", errors="ignore")), dtype=torch.long)


def batch_of(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Stretches of a text."""
    starts = torch.randint(len(text) - CONTEXT, (count,), generator=generator)
    return text[starts[:, None] + torch.arange(CONTEXT)]


class Logits(nn.Module):
    """The transformer, with the scores of the next byte as its output."""

    def __init__(self) -> None:
        super().__init__()
        network = LlamaForCausalLM(LlamaConfig(**SIZES))
        self.model, self.lm_head = network.model, network.lm_head

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores for the byte after each stretch."""
        return self.lm_head(self.model(tokens, use_cache=False).last_hidden_state[:, -1])


def train(model: nn.Module, text: Tensor, steps: int, rate: float, batch: int, seed: int, say: str = "") -> None:
    """Train what needs a gradient, by AdamW at a constant rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    with progress_bar(say, steps, shown=bool(say)) as advance:
        for _ in range(steps):
            tokens = batch_of(text, batch, generator)
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            advance()


@torch.no_grad()
def loss_on(model: nn.Module, text: Tensor) -> float:
    """Nats for each byte, on stretches that are always the same."""
    tokens = batch_of(text, 128, torch.Generator().manual_seed(12345))
    return float(model.eval()(input_ids=tokens, labels=tokens).loss)


def base_network(folder: Path) -> LlamaForCausalLM:
    """The base, trained once."""
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
        train(model, documentation(), BASE_STEPS, 2e-3, BASE_BATCH, SEED, "training the base")
        model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


def adapted(base: Path, recipe: Recipe, out: Path) -> float:
    """Train an adapter and write it; returns its loss on files that it did not see."""
    torch.manual_seed(recipe.seed)
    model = peft.get_peft_model(
        base_network(base), peft.LoraConfig(r=recipe.rank, lora_alpha=ALPHA, target_modules=MODULES)
    )
    seen, unseen = source_code(recipe.task)
    train(model, seen, recipe.steps, recipe.learning_rate, BATCH, recipe.seed)
    model.save_pretrained(str(out))
    return loss_on(model, unseen)


def grow(folder: Path, recipes: Sequence[Recipe] = RECIPES) -> Row:
    """The base and its adapters, with a table of what each was trained with and reached."""
    adapters, table = folder / "adapters", folder / "members.json"
    base = base_network(folder / "base")
    rows: dict[str, Row] = json.loads(table.read_text()) if table.exists() else {}
    with progress_bar("training adapters", len(recipes)) as advance:
        for recipe in recipes:
            if recipe.name not in rows:
                loss = adapted(folder / "base", recipe, adapters / recipe.name)
                rows[recipe.name] = {**recipe._asdict(), "loss": loss}
                table.write_text(to_json(rows, indent=1))
            advance()
    with (adapters / "members.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", *next(iter(rows.values()))])
        writer.writeheader()
        writer.writerows({"path": f"{name}/adapter_model.safetensors", **row} for name, row in rows.items())
    losses = {task: loss_on(base, source_code(task)[1]) for task in TASKS}
    numbers = sum(parameter.numel() for parameter in base.parameters())
    found = pd.DataFrame(rows.values())
    return {
        "parameters": numbers,
        "adapters": len(rows),
        "base_loss": {"documentation": loss_on(base, documentation()), **losses},
        "loss": found.groupby("task")["loss"].agg(["min", "median", "max"]).to_dict("index"),
    }


def zoo_of(folder: Path) -> Zoo:
    """The adapters as a zoo of singular pairs."""
    if not (folder / "zoo").exists():
        import_zoo(folder / "adapters", folder / "zoo", ImportConfig(table="members.csv", by="path"))
    return Zoo.open(folder / "zoo")


def merged_networks(folder: Path, zoo: Zoo) -> list[Path]:
    """The base with each adapter, in files, in the order of the zoo."""
    files = []
    (folder / "merged").mkdir(exist_ok=True)
    base = load_file(folder / "base" / "model.safetensors")
    for member in zoo.table["member"]:
        file = folder / "merged" / f"{member.partition('/')[0]}.safetensors"
        if not file.exists():
            adapter = open_adapter(folder / "adapters" / member.partition("/")[0])
            save_file({name: tensor.contiguous() for name, tensor in merge_adapter(base, adapter)}, file)
        files.append(file)
    return files


def factor_statistics(folder: Path, zoo: Zoo) -> np.ndarray:
    """s(W) of the stored factors: mean, variance and five quantiles of each."""
    rows = []
    for member in zoo.table["member"]:
        tensors = load_file(folder / "adapters" / member.partition("/")[0] / "adapter_model.safetensors")
        quantiles = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
        row = [torch.cat([t.mean()[None], t.var()[None], t.flatten().quantile(quantiles)]) for t in tensors.values()]
        rows.append(torch.cat(row))
    return torch.stack(rows).numpy()


def singular_values(folder: Path, zoo: Zoo) -> np.ndarray:
    """Logarithms of the singular values of every change, 0 beyond its rank."""
    rows = []
    for member in zoo.table["member"]:
        changes = open_adapter(folder / "adapters" / member.partition("/")[0]).changes.values()
        held = [canonical_form(change.product()).values for change in changes]
        rows.append(np.concatenate([np.log1p(np.pad(v.numpy(), (0, max(RANKS) - len(v))) * 100) for v in held]))
    return np.stack(rows)


def splits(table: pd.DataFrame) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """Training, validation and test rows: at random; each task in turn left out; ranks of 8 and 16 left out."""
    drawn = np.random.default_rng(SEED).random(len(table))
    rank, task = table["rank"].to_numpy(), table["task"].to_numpy()

    def part(test: np.ndarray) -> tuple[np.ndarray, ...]:
        return ~test & (drawn >= 0.2), ~test & (drawn < 0.2), test

    first, second = np.quantile(drawn, [SHARES[0], SHARES[0] + SHARES[1]])
    random = (drawn <= first, (drawn > first) & (drawn <= second), drawn > second)
    return {"at random": [random], "by task": [part(task == name) for name in TASKS], "by rank": [part(rank >= 8)]}


def read(folder: Path) -> list[Row]:
    """How well properties are read from each representation, on each split."""
    zoo = zoo_of(folder)
    table = zoo.table.assign(log_rank=np.log2(zoo.table["rank"]))
    given = [describe_module(f"{__file__}:Logits", (f"1,{CONTEXT}",), (BYTES,))]
    features = {
        "s(W) of the factors": factor_statistics(folder, zoo),
        "singular values": singular_values(folder, zoo),
        "s(W) of the pairs": layer_statistics(zoo).features,
        "W: the pairs": raw_weights(zoo).features,
        "r(W) of merged networks": respond(merged_networks(folder, zoo), given, AskConfig()).features,
    }
    rows = []
    for split, folds in splits(table).items():
        scores: dict[tuple[str, str], list[float]] = {}
        for number, fold in enumerate(folds):
            own = {**features, **embedded(folder / f"sane-{split.replace(' ', '-')}-{number}", zoo, fold[0])}
            for label, vectors in own.items():
                parts = [Embeddings(vectors[rows_of], table[rows_of], Representation(label)) for rows_of in fold]
                for target in TARGETS:
                    score = scored(parts, target)
                    if score is not None:
                        scores.setdefault((label, target), []).append(score)
        rows += [{"split": split, "by": label, "target": t, "scores": s} for (label, t), s in scores.items()]
    return rows


def embedded(folder: Path, zoo: Zoo, train_rows: np.ndarray) -> dict[str, np.ndarray]:
    """SANE's embeddings of all adapters, trained on some."""
    if not folder.exists():
        names = set(zoo.table["member"][train_rows])
        members = zoo.where(lambda table: table["member"].isin(names))
        pretrain(members, SANEConfig(), TRAINING, PreparationConfig(token_width=96), out=folder)
    sane = SANE.open(folder)
    return {"SANE": sane.embed(zoo).features, "SANE, full sequence": sane.embed(zoo, "sequence").features}


def scored(parts: Sequence[Embeddings], target: str) -> float | None:
    """Accuracy for the task, R² for numbers; None where a property does not vary in a part, or for tasks never seen."""
    if target == "task" and not set(parts[2].table["task"]) <= set(parts[0].table["task"]):
        return None
    try:
        if target == "task":
            return float(classify(*parts, target=target, seed=SEED).accuracy)
        name = "log_rank" if target == "rank" else target
        return float(probe(*parts, target=name, logarithmic=target == "learning_rate", seed=SEED).r2)
    except InputError:
        return None


def relatives(folder: Path) -> list[Row]:
    """A folder of adapters and what was made of them, and what inspect says of each pair."""
    place = folder / "relatives"
    if not place.exists():
        make_relatives(folder, place)
    study = study_folder(str(place))
    rows: list[Row] = [pair._asdict() for pair in study.adapters.alike]
    return [*rows, *(twin._asdict() for twin in study.adapters.merged), {"known": KNOWN}]


# What is made of the first adapter of two recipes, and is to be told from the others.
KNOWN = ("copy", "other factors", "half as large", "trained on", "sum of two", "merged")


def make_relatives(folder: Path, place: Path) -> None:
    """Copies, other factors, another scale, more training, a sum, and a merged network of the first of two tasks."""
    one, two = (Recipe(task, 8, 5e-3, 120, 0) for task in TASKS[:2])
    sources = [folder / "adapters" / recipe.name for recipe in (one, two)]
    config = json.loads((sources[0] / "adapter_config.json").read_text())
    tensors = load_file(sources[0] / "adapter_model.safetensors")
    for recipe, source in zip((one, two), sources, strict=True):
        written(place / recipe.name, load_file(source / "adapter_model.safetensors"), config)
    written(place / "copy", tensors, {**config, "base_model_name_or_path": "elsewhere"})
    mixed = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    other = {n: mixed @ t if "lora_A" in n else t @ mixed.inverse() for n, t in tensors.items()}
    written(place / "other-factors", other, config)
    written(place / "half-as-large", tensors, {**config, "lora_alpha": ALPHA / 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about itself
        model = peft.PeftModel.from_pretrained(base_network(folder / "base"), str(sources[0]), is_trainable=True)
    train(model, source_code(one.task)[0], 60, 5e-3, BATCH, 7)
    model.save_pretrained(str(place / "trained-on"))
    join_adapters([open_adapter(source) for source in sources], "sum", place / "sum-of-two")
    base = folder / "base" / "model.safetensors"
    save_file(load_file(base), place / "base.safetensors")
    add_adapters(str(base), [str(sources[0])], place / "merged.safetensors")


def written(folder: Path, tensors: dict[str, Tensor], config: Row) -> None:
    """An adapter in a folder."""
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))


def interfere(folder: Path) -> list[Row]:
    """Sums of two well-trained adapters: loss on both tasks, beside that of each alone, and how far they meet."""
    base = load_file(folder / "base" / "model.safetensors")
    chosen = [Recipe(task, rank, 5e-3, 120, 0) for task in TASKS for rank in (2, 8)]
    opened = {recipe: open_adapter(folder / "adapters" / recipe.name) for recipe in chosen}
    network = base_network(folder / "base")
    texts = {task: source_code(task)[1] for task in TASKS}

    def losses(weights: dict[str, Tensor], tasks: Sequence[str]) -> list[float]:
        network.load_state_dict(weights)
        return [loss_on(network, texts[task]) for task in tasks]

    alone = {recipe: losses(dict(merge_adapter(base, one)), [recipe.task])[0] for recipe, one in opened.items()}
    rows = []
    for first, second in itertools.combinations(chosen, 2):
        met = overlap(opened[first], opened[second])
        both = dict(merge_adapter(dict(merge_adapter(base, opened[first])), opened[second]))
        lost = np.mean(losses(both, [first.task, second.task])) - np.mean([alone[first], alone[second]])
        told = {"cosine": met.cosine, "outputs": met.outputs, "inputs": met.inputs, "both": met.both}
        rows.append({"first": first.name, "second": second.name, "same_task": first.task == second.task})
        rows[-1] |= {"lost": float(lost), "by_chance": met.by_chance, **told}
    return rows


def alike(folder: Path) -> list[Row]:
    """Cosines of the changes of every two adapters, by what the two have in common."""
    products = inner_products([open_adapter(folder / "adapters" / recipe.name) for recipe in RECIPES])
    sizes = np.sqrt(np.diag(products))
    cosines = products / np.outer(sizes, sizes)
    kinds: dict[tuple[str, str], list[float]] = {}
    for first, second in itertools.combinations(range(len(RECIPES)), 2):
        one, other = RECIPES[first], RECIPES[second]
        begun = (one.seed, one.rank) == (other.seed, other.rank)  # the first factors are drawn alike
        trained = begun and one.task == other.task and one.learning_rate == other.learning_rate
        task = "one training, earlier and later" if trained else "one task" if one.task == other.task else "two tasks"
        kinds.setdefault((task, "one beginning" if begun else "two beginnings"), []).append(cosines[first, second])
    parts = (0, 1, 5, 50, 95, 99, 100)
    return [
        {
            "task": task,
            "begun": begun,
            "pairs": len(held),
            "cosines": np.percentile(held, parts).tolist(),
        }
        for (task, begun), held in kinds.items()
    ]


def carry_out() -> Iterator[str]:
    """Every table that was asked for and is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["grow", "read", "alike", "relatives", "interfere"])
    parser.add_argument("--folder", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--out", type=Path, default=Path("docs/tables/adapters.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    held: Row = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    made: dict[str, Callable[[Path], Any]] = {
        "grow": grow,
        "read": read,
        "alike": alike,
        "relatives": relatives,
        "interfere": interfere,
    }
    for name in arguments.tables:
        if name not in held:
            held[name] = made[name](arguments.folder)
            arguments.out.write_text(to_json(held, indent=1) + "\n")
        yield name


if __name__ == "__main__":
    for table in carry_out():
        print(table)
