"""Open an adapter: folders of PEFT's, and files named as PEFT, diffusers, kohya's scripts and LyCORIS name parts."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from weightspace.errors import InputError
from weightspace.inputs import parse_json, read_object
from weightspace.remote import Place, located
from weightspace.weights.adapters import methods, multiplying
from weightspace.weights.adapters.changes import Adapter, Change, Replaced
from weightspace.weights.adapters.methods import Leaf, Leaves, Scaling
from weightspace.weights.files import StoredWeights, open_weights
from weightspace.weights.values import natural_key, some_of

CONFIG, FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
# How diffusers calls a LoRA of a pipeline, which has no configuration beside it.
PIPELINE = "pytorch_lora_weights.safetensors"
# Where diffusers keeps what others keep in a file beside.
METADATA = "lora_adapter_metadata"
# How the last words of a name tell a part: the word in a file -> the kind of change, and which part of it this is.
PARTS: dict[str, tuple[str, str]] = {
    **{f"lora_{side}": ("lora", side) for side in "AB"},
    "lora_B.bias": ("bias", "values"),
    **{f"lora_embedding_{side}": ("embedding", side) for side in "AB"},
    **{"lora_down": ("lora", "A"), "lora_up": ("lora", "B"), "lora.down": ("lora", "A"), "lora.up": ("lora", "B")},
    **{
        "lora_magnitude_vector": ("lora", "magnitude"),
        "dora_scale": ("any", "magnitude"),
        "lora_diag": ("lora", "diag"),
        "lora_E": ("lora", "E"),
    },
    **{f"hada_{part}": ("loha", part) for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": ("lokr", part) for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{"vera_lambda_b": ("vera", "lambda_b"), "vera_lambda_d": ("vera", "lambda_d")},
    **{"ia3_l": ("ia3", "l"), "oft_R": ("oft", "R"), "hira_A": ("hira", "A"), "hira_B": ("hira", "B")},
    **{f"delora_{part}": ("delora", part) for part in ("A", "B", "lambda", "w_norm")},
    **{"alpha": ("any", "alpha"), "trainable_tokens_delta": ("tokens", "rows")},
}
# Of TinyLoRA, the base's singular vectors at its inputs; those at its outputs end with B.
TINY = ".tinylora_A"
# Words in the names of parameters that experts define last.
GOING_OUT = ("down", "output", "w2", "w3")
BUILD: dict[str, Callable[[Leaves, Scaling, str], Change]] = {
    "lora": methods.low_rank,
    "embedding": methods.low_rank,
    "loha": methods.hadamard,
    "lokr": methods.kronecker,
    "vera": methods.vectors,
    "ia3": multiplying.scaled,
    "delora": methods.bounded,
    "hira": multiplying.hadamard_with_base,
    "oft": multiplying.rotated,
}
# PEFT's types whose changes are computed here; what others store may have the same names.
COMPUTED = ("LORA", "ADALORA", "LOHA", "LOKR", "VERA", "IA3", "HIRA", "OFT", "DELORA", "TRAINABLE_TOKENS")
# Longer words first: `lora_A` is the beginning of none, `w1` of `w1_a`.
_WORDS = "|".join(re.escape(word) for word in sorted(PARTS, key=len, reverse=True))
# A module, a part, and what torch adds: the name of one adapter of several, `weight`.
_PART = re.compile(rf"^(?:(?P<module>.+?)\.)?(?P<word>{_WORDS})(?:\.(?P<adapter>(?!bias$)[^.]+?))??(?:\.weight)?$")
_PREFIX = re.compile(r"^(base_model\.model\.|base_model\.)")
_COMPILED = re.compile(r"(^|\.)_orig_mod(?=\.)")


def is_adapter(path: str | Place, names: Collection[str] | None = None) -> bool:
    """Whether a folder or file holds an adapter and no network; of a file the names of tensors are read if not given.

    A network that was saved with an adapter on is one: all that the adapter wraps is there, and what it does not.
    """
    path = located(path)
    if path.is_dir():
        peft = (path / CONFIG).is_file() and any((path / name).is_file() for name in FILES)
        return peft or (path / PIPELINE).is_file()
    places = {name: _part(name) for name in (open_weights(path) if names is None else names)}
    modules = {place.module for place in places.values() if place is not None and place.kind != "any"}
    plain = {_PREFIX.sub("", _COMPILED.sub("", name)) for name, place in places.items() if place is None}
    wrapped = modules and all(f"{module}.base_layer.weight" in plain for module in modules)
    whole = wrapped and any(".base_layer." not in name for name in plain)
    return bool(modules) and not whole


def open_adapter(path: str | Place) -> Adapter:
    """Open an adapter lazily.

    Args:
        path: a folder of PEFT's (`adapter_config.json` beside `adapter_model.safetensors` or `.bin`), the second of
            these, or a file of an adapter's tensors. Without a configuration alpha is a tensor of the file, or else the
            rank, as diffusers and kohya's scripts take it.

    Raises:
        InputError: nothing there, no adapter, or a configuration that is none.

    Examples:
        >>> adapter = open_adapter("my-adapter")  # doctest: +SKIP
        >>> adapter.changes["model.layers.0.self_attn.q_proj.weight"].canonical().rank  # doctest: +SKIP
        8
    """
    path = located(path)
    folder = path.parent if path.name in FILES else path
    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    names = (*FILES, PIPELINE) if path.is_dir() else ()
    file = next((path / name for name in names if (path / name).is_file()), path)
    stored = open_weights(file, keep=False)
    try:
        return _Reading(path, stored, config or _config_in(stored)).adapter()
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"expected an adapter's tensors, and a configuration that fits them, in {path}, found others ({error})"
        ) from error


def _config_in(stored: StoredWeights) -> dict[str, Any]:
    """The configuration in a safetensors file's metadata, where diffusers puts it."""
    text = stored.metadata.get(METADATA)
    try:
        found = parse_json(text, METADATA) if isinstance(text, str) else {}
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


class _Place(NamedTuple):
    """Where a tensor of an adapter belongs: a module of the base, the kind of change, the part of it; and to which of
    several adapters, in a state dict that names them.
    """

    module: str
    kind: str
    part: str
    adapter: str | None


def _part(name: str) -> _Place | None:
    """What a stored name means, if it is that of a part of a change."""
    matched = _PART.match(_COMPILED.sub("", name))
    if matched is None or (not matched["module"] and matched["word"] == "alpha"):
        return None
    kind, part = PARTS[matched["word"]]
    return _Place(_PREFIX.sub("", matched["module"] or ""), kind, part, matched["adapter"])


class _Reading:
    """Sorts the tensors of a file into changes, replacements and what the file tells of its base."""

    def __init__(self, path: Place, stored: StoredWeights, config: Mapping[str, Any]) -> None:
        self.path, self.stored, self.config = path, stored, config
        self.type = str(config.get("peft_type") or "").upper()
        self.modules: dict[tuple[str, str], dict[str, Leaf]] = {}
        self.whole: dict[str, Leaf] = {}
        self.shared: dict[str, Leaf] = {}
        self.named: set[str] = set()
        for name, tensor in stored.meta().items():
            self._sort(name, Leaf(partial(stored.__getitem__, name), tuple(tensor.shape)))
        if len(self.named) > 1:
            raise InputError(f"expected one adapter in {path}, found several: {some_of(sorted(self.named))}")
        self._attach_alphas()

    def _sort(self, name: str, read: Leaf) -> None:
        place = _part(name)
        if place is not None:
            self.modules.setdefault((place.module, place.kind), {})[place.part] = read
            self.named |= {place.adapter} if place.adapter else set()
        elif name.rpartition(".")[2] in ("vera_A", "vera_B"):
            self.shared["shared_" + name[-1]] = read
        else:
            self.whole[_PREFIX.sub("", _COMPILED.sub("", name))] = read

    def _attach_alphas(self) -> None:
        """Alpha, and LyCORIS's magnitude, are tensors beside the factors of their module, whatever these are."""
        beside = {module: parts for (module, kind), parts in self.modules.items() if kind == "any"}
        self.modules = {place: parts for place, parts in self.modules.items() if place[1] != "any"}
        for (module, _), parts in self.modules.items():
            parts.update(beside.get(module, {}))
        for module in [module for module, kind in self.modules if kind == "embedding"]:
            # DoRA stores the lengths of an embedding as those of any module: of columns, one row of numbers.
            lengths = self.modules.pop((module, "lora"), {}).get("magnitude")
            if lengths is not None:
                self.modules[module, "embedding"]["magnitude"] = lengths.row

    def adapter(self) -> Adapter:
        """All of it."""
        vectors = {
            f"{name.removesuffix(TINY)}.weight": (self.whole[f"{name[:-1]}B"], read)
            for name, read in self.whole.items()
            if name.endswith(TINY) and f"{name[:-1]}B" in self.whole
        }
        changes = dict(self._changes())
        changes |= dict(self._half_understood(changes))
        rows = {
            f"{module.removesuffix('.token_adapter')}.weight": parts["rows"]
            for (module, kind), parts in self.modules.items()
            if kind == "tokens"
        }
        told = {
            name.replace(".base_layer.", "."): read
            for name, read in self.whole.items()
            if ".base_layer." in name and not self._is_bias(name)
        }
        replaced = {
            name.replace(".base_layer.", "."): Replaced(read)
            for name, read in self.whole.items()
            if name.replace(".base_layer.", ".") not in told
        }
        replaced |= {name: Replaced(read, self._rows_of(name)) for name, read in rows.items()}
        if not changes and not rows and not self.type:
            raise InputError(f"expected an adapter in {self.path}, found {some_of(list(self.stored))}")
        found = list(dict.fromkeys(change.method for change in changes.values()))
        base = self.config.get("base_model_name_or_path")
        return Adapter(
            path=self.path,
            method=", ".join(found) or self.type or "replaced modules",
            changes=dict(sorted(changes.items(), key=lambda item: natural_key(item[0]))),
            replaced=replaced,
            told=told,
            config=self.config,
            base=base if isinstance(base, str) and base else None,
            remarks=tuple(self._remarks(changes)),
            stored=self.stored,
            norms={
                f"{module}.weight": parts["w_norm"] for (module, _), parts in self.modules.items() if "w_norm" in parts
            },
            vectors=vectors,
        )

    def _half_understood(self, changes: Mapping[str, Change]) -> Iterator[tuple[str, Change]]:
        """Changes of modules that hold more than is known here: what else they do nobody can say."""
        for name in list(self.whole):
            module, _, rest = name.removesuffix(".weight").rpartition(".")
            target = f"{module}.weight"
            if target in changes and rest not in ("weight", "bias", "base_layer"):
                why = f"its file holds {rest} of it too, which is not understood here"
                yield target, replace(changes[target], known="cannot be known", why=why, factors=None, apply=None)
                self.whole.pop(name)

    def _is_bias(self, name: str) -> bool:
        """Biases that were trained are stored under the base's own names, of wrapped layers too."""
        return name.endswith(".bias") and self.config.get("bias") not in (None, "none")

    def _rows_of(self, name: str) -> tuple[int, ...]:
        """Which rows of a tensor are replaced: only the configuration says it."""
        indices = self.config.get("token_indices") or self.config.get("trainable_token_indices") or ()
        if isinstance(indices, Mapping):
            indices = next((rows for module, rows in indices.items() if str(module) in name), ())
        return tuple(int(row) for row in indices)

    def _changes(self) -> Iterator[tuple[str, Change]]:
        for (module, kind), parts in self.modules.items():
            if kind == "tokens":
                continue
            if self.type and self.type not in COMPUTED:
                known, why = methods.OTHERS.get(self.type, ("from the file", methods.NOT_HERE))
                yield f"{module}.weight", Change(self.type, known, why)
                continue
            leaves: Leaves = {**parts, **(self.shared if kind == "vera" else {})}
            yield from self._of_module(module, kind, leaves)
        yield from self._of_other_methods()

    def _of_module(self, module: str, kind: str, leaves: Leaves) -> Iterator[tuple[str, Change]]:
        """The changes of one module's tensors."""
        rank, scaling = self._rank(module), self._scaling(module, leaves)
        if kind == "lora" and (parameter := self._stacked(module)):
            for change in methods.experts(leaves, scaling, rank):
                yield parameter if change.index is None else f"{parameter}[{change.index}]", change
        elif kind == "bias":
            yield f"{module}.bias", methods.bias(leaves, scaling, rank)
        else:
            change = self._build(module, kind, leaves)
            yield f"{module}.weight", change
            if kind == "ia3" and leaves["l"].shape[-1] == 1:
                scale = partial(_scaled, leaves["l"])
                yield f"{module}.bias", replace(change, apply=scale, optional=True)

    def _stacked(self, module: str) -> str | None:
        """The parameter behind a pair of a module of stacked experts, which the key of the pair does not name.

        The pair of the parameter that the module defines first lies innermost, wrapped by those of the others: what
        goes in before what goes out. The configuration lists them in any order.
        """
        plain = module
        while plain.endswith(".base_layer"):
            plain = plain.removesuffix(".base_layer")
        depth = (len(module) - len(plain)) // len(".base_layer")
        listed = [str(one) for one in self.config.get("target_parameters") or ()]
        own = [name for parent, _, name in (one.rpartition(".") for one in listed) if _ends(plain, parent)]
        own.sort(key=lambda name: (any(word in name for word in GOING_OUT), natural_key(name)))
        return f"{plain}.{own[len(own) - 1 - depth]}" if depth < len(own) else None

    def _rank(self, module: str) -> int:
        config = self._part_of_config(module)
        pattern = config.get("rank_pattern")
        rank = first_match(pattern if isinstance(pattern, Mapping) else {}, module, config.get("r") or 1)
        return int(rank)

    def _build(self, module: str, kind: str, leaves: Leaves) -> Change:
        scaling = self._scaling(module, leaves)
        if kind == "embedding":
            # Stored as (rank, tokens) and (width, rank): the change is the transpose of their product.
            leaves = {**leaves, "A": leaves["B"].transposed, "B": leaves["A"].transposed}
        method, wanted = ("AdaLoRA", "ABE") if self.type == "ADALORA" else ("LoRA", "AB")
        missing = [part for part in wanted if kind in ("lora", "embedding", "hira") and part not in leaves]
        if missing:
            return Change(method, "cannot be known", f"its factor {missing[0]} is not in the file")
        if kind == "lokr":  # of whole factors PEFT divides alpha by the rank that a pattern names
            scaling = replace(scaling, options={**self.config, "r": self._rank(module)} if self.config else None)
        change = BUILD[kind](leaves, scaling, module)
        if "magnitude" in leaves and kind in ("loha", "lokr") and change.factors is not None:
            change = methods.with_lengths(change, change.factors, leaves["magnitude"], change.stored_rank)
        return replace(change, embedding=kind == "embedding")

    def _scaling(self, module: str, leaves: Leaves) -> Scaling:
        """Alpha by the configuration, whose first matching pattern counts, in the order that it is stored in."""
        config = self._part_of_config(module)
        if "alpha" in leaves:
            return Scaling(float(leaves["alpha"]()), options=config)
        usual = config.get("lora_alpha", config.get("alpha"))
        pattern = config.get("alpha_pattern")
        alpha = first_match(pattern if isinstance(pattern, Mapping) else {}, module, usual)
        return Scaling(None if alpha is None else float(alpha), bool(config.get("use_rslora")), config)

    def _part_of_config(self, module: str) -> Mapping[str, Any]:
        """The configuration of a module: diffusers has one for every part of a pipeline, by dotted prefixes."""
        parts = {key.rpartition(".")[0] for key in self.config if "." in key}
        own = next((part for part in sorted(parts, key=len) if f"{module}.".startswith(f"{part}.")), None)
        if own is None:
            own = next(iter(parts)) if len(parts) == 1 else None  # whose names begin without it
        named = {key.rpartition(".")[2]: value for key, value in self.config.items() if key.rpartition(".")[0] == own}
        return {**self.config, **named} if own else self.config

    def _of_other_methods(self) -> Iterator[tuple[str, Change]]:
        """Tensors of a method that is not computed here: each module's change, and what it would take."""
        if not self.type or self.modules or self.type == "TRAINABLE_TOKENS":
            return
        known, why = methods.OTHERS.get(self.type, ("from the file", methods.NOT_HERE))
        names = [name for name in self.whole if self.type.lower()[:4] in name.lower()]
        for name in names:
            module = re.sub(r"\.[^.]*(?:\.weight)?$", "", name)
            yield f"{module}.weight", Change(self.type, known, why)
            self.whole.pop(name)

    def _remarks(self, changes: Mapping[str, Change]) -> Iterator[str]:
        if not self.config and not any("alpha" in parts for parts in self.modules.values()):
            yield "no configuration and no alpha: taken as large as the rank, as diffusers does"
        if self.config.get("layer_replication"):
            yield "its layers are counted after those of the base were replicated (layer_replication)"
        strange = [name for name, change in changes.items() if change.known == "cannot be known"]
        if strange:
            why = changes[strange[0]].why
            yield f"{len(strange)} of {len(changes)} changes cannot be known: {why}"


def _ends(module: str, place: str) -> bool:
    return not place or f".{module}".endswith(f".{place}")


def _scaled(vector: Leaf, base: Tensor) -> Tensor:
    return base * vector().float().flatten()


def first_match(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that fits the end of a module's name, as PEFT has it; the default if none does."""
    for pattern, value in patterns.items():
        try:
            fits = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error:
            continue
        if fits:
            return value
    return default
