"""weightspace: trained neural networks as a data type.

Learn a representation of a population of networks' weights (SANE; Schürholt, Mahoney and Borth, ICML 2024),
read networks with it, and write new ones. Names are loaded when they are first used, so importing the
package is quick and has no effect.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from weightspace.analysis.aligning import align as align
    from weightspace.analysis.inspecting.checkpoints import inspect_folder as inspect_folder
    from weightspace.analysis.inspecting.relating_folders import relate_folder as relate_folder
    from weightspace.analysis.layers import layer_similarity as layer_similarity
    from weightspace.analysis.layers import layers_of as layers_of
    from weightspace.analysis.predicting.calibrating import fit_predictor as fit_predictor
    from weightspace.analysis.predicting.predictor import Predictor as Predictor
    from weightspace.analysis.probing.comparing import compare_representations as compare_representations
    from weightspace.analysis.probing.folding import make_folds as make_folds
    from weightspace.analysis.probing.probe import pool_folds as pool_folds
    from weightspace.analysis.probing.probe import probe as probe
    from weightspace.analysis.probing.probe import subtract as subtract
    from weightspace.analysis.representations.baselines import layer_statistics as layer_statistics
    from weightspace.analysis.representations.baselines import raw_weights as raw_weights
    from weightspace.analysis.representations.catalog import choose_representations as choose_representations
    from weightspace.analysis.representations.catalog import represent as represent
    from weightspace.analysis.representations.spectra import matrix_views as matrix_views
    from weightspace.analysis.representations.spectra import spectra as spectra
    from weightspace.analysis.retrieving import find_nearest as find_nearest
    from weightspace.autoencoder.config import BehaviourConfig as BehaviourConfig
    from weightspace.autoencoder.config import SANEConfig as SANEConfig
    from weightspace.autoencoder.config import TrainConfig as TrainConfig
    from weightspace.autoencoder.fidelity import FidelityObserver as FidelityObserver
    from weightspace.autoencoder.fidelity import Reconstruction as Reconstruction
    from weightspace.autoencoder.fidelity import measure_fidelity as measure_fidelity
    from weightspace.autoencoder.fidelity import measure_layers as measure_layers
    from weightspace.autoencoder.fidelity import reconstruct as reconstruct
    from weightspace.autoencoder.inference import embed as embed
    from weightspace.autoencoder.presets import preset as preset
    from weightspace.autoencoder.refining import Descent as Descent
    from weightspace.autoencoder.refining import encode_closely as encode_closely
    from weightspace.autoencoder.sane import SANE as SANE
    from weightspace.autoencoder.streaming import embed_files as embed_files
    from weightspace.autoencoder.streaming import embed_network as embed_network
    from weightspace.autoencoder.training.distilling import tune as tune
    from weightspace.autoencoder.training.pretraining import pretrain as pretrain
    from weightspace.corpus.config import PreparationConfig as PreparationConfig
    from weightspace.errors import InputError as InputError
    from weightspace.evaluation.config import EvaluateConfig as EvaluateConfig
    from weightspace.generation.config import SamplerConfig as SamplerConfig
    from weightspace.generation.config import SelectConfig as SelectConfig
    from weightspace.generation.generating import generate as generate
    from weightspace.generation.initializing import initialize as initialize
    from weightspace.generation.samplers.gaussian import Gaussian as Gaussian
    from weightspace.generation.samplers.interpolation import Interpolation as Interpolation
    from weightspace.generation.samplers.kernel_density import KernelDensity as KernelDensity
    from weightspace.generation.samplers.mixture import Mixture as Mixture
    from weightspace.generation.samplers.published import published as published
    from weightspace.images import open_images as open_images
    from weightspace.report.model_card import CardZoo as CardZoo
    from weightspace.report.model_card import write_model_card as write_model_card
    from weightspace.symmetry.axes import Symmetry as Symmetry
    from weightspace.symmetry.axes import permute as permute
    from weightspace.symmetry.axes import random_permutations as random_permutations
    from weightspace.symmetry.homogeneity import trace_rescaling as trace_rescaling
    from weightspace.symmetry.matching import match as match
    from weightspace.symmetry.matching import match_stack as match_stack
    from weightspace.symmetry.proving import prove_symmetry as prove_symmetry
    from weightspace.symmetry.rescaling import Rescaling as Rescaling
    from weightspace.symmetry.rescaling import canonical_factors as canonical_factors
    from weightspace.symmetry.rescaling import rescale as rescale
    from weightspace.symmetry.tracing import trace_symmetry as trace_symmetry
    from weightspace.tokens.layout import plan_layout as plan_layout
    from weightspace.tokens.tokenizing import detokenize as detokenize
    from weightspace.tokens.tokenizing import tokenize as tokenize
    from weightspace.weights.files import open_weights as open_weights
    from weightspace.weights.files import read_weights as read_weights
    from weightspace.weights.files import write_weights as write_weights
    from weightspace.zoo.architecture import Architecture as Architecture
    from weightspace.zoo.concatenating import concatenate as concatenate
    from weightspace.zoo.growing.config import GrowConfig as GrowConfig
    from weightspace.zoo.growing.growing import grow as grow
    from weightspace.zoo.importing.importing import import_zoo as import_zoo
    from weightspace.zoo.zoo import Zoo as Zoo

_HOMES = {
    "weightspace.analysis.aligning": ("align",),
    "weightspace.analysis.representations.baselines": ("layer_statistics", "raw_weights"),
    "weightspace.analysis.inspecting.relating_folders": ("relate_folder",),
    "weightspace.analysis.predicting.calibrating": ("fit_predictor",),
    "weightspace.analysis.probing.comparing": ("compare_representations",),
    "weightspace.analysis.probing.folding": ("make_folds",),
    "weightspace.analysis.inspecting.checkpoints": ("inspect_folder",),
    "weightspace.analysis.layers": (
        "layer_similarity",
        "layers_of",
    ),
    "weightspace.analysis.predicting.predictor": ("Predictor",),
    "weightspace.analysis.probing.probe": ("pool_folds", "probe", "subtract"),
    "weightspace.analysis.representations.catalog": ("choose_representations", "represent"),
    "weightspace.analysis.retrieving": ("find_nearest",),
    "weightspace.analysis.representations.spectra": (
        "matrix_views",
        "spectra",
    ),
    "weightspace.autoencoder.config": ("BehaviourConfig", "SANEConfig", "TrainConfig"),
    "weightspace.autoencoder.training.distilling": ("tune",),
    "weightspace.autoencoder.fidelity": (
        "FidelityObserver",
        "Reconstruction",
        "measure_fidelity",
        "measure_layers",
        "reconstruct",
    ),
    "weightspace.autoencoder.inference": ("embed",),
    "weightspace.autoencoder.presets": ("preset",),
    "weightspace.autoencoder.training.pretraining": ("pretrain",),
    "weightspace.autoencoder.refining": ("Descent", "encode_closely"),
    "weightspace.autoencoder.sane": ("SANE",),
    "weightspace.autoencoder.streaming": ("embed_files", "embed_network"),
    "weightspace.corpus.config": ("PreparationConfig",),
    "weightspace.errors": ("InputError",),
    "weightspace.generation.config": ("EvaluateConfig", "SamplerConfig", "SelectConfig"),
    "weightspace.generation.generating": ("generate",),
    "weightspace.generation.initializing": ("initialize",),
    "weightspace.generation.samplers.gaussian": ("Gaussian",),
    "weightspace.generation.samplers.interpolation": ("Interpolation",),
    "weightspace.generation.samplers.mixture": ("Mixture",),
    "weightspace.generation.samplers.published": ("published",),
    "weightspace.generation.samplers.kernel_density": ("KernelDensity",),
    "weightspace.images": ("open_images",),
    "weightspace.report.model_card": ("CardZoo", "write_model_card"),
    "weightspace.symmetry.axes": ("Symmetry", "permute", "random_permutations"),
    "weightspace.symmetry.homogeneity": ("trace_rescaling",),
    "weightspace.symmetry.matching": ("match", "match_stack"),
    "weightspace.symmetry.proving": ("prove_symmetry",),
    "weightspace.symmetry.rescaling": ("Rescaling", "canonical_factors", "rescale"),
    "weightspace.symmetry.tracing": ("trace_symmetry",),
    "weightspace.tokens.layout": ("plan_layout",),
    "weightspace.tokens.tokenizing": ("detokenize", "tokenize"),
    "weightspace.weights.files": ("open_weights", "read_weights", "write_weights"),
    "weightspace.zoo.architecture": ("Architecture",),
    "weightspace.zoo.concatenating": ("concatenate",),
    "weightspace.zoo.growing.config": ("GrowConfig",),
    "weightspace.zoo.growing.growing": ("grow",),
    "weightspace.zoo.importing.importing": ("import_zoo",),
    "weightspace.zoo.zoo": ("Zoo",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'weightspace' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
