# The public names: `weightspace.NAME`. The rooms at the end are namespaces with names of their own.
from weightspace import responses as responses
from weightspace import symmetry as symmetry
from weightspace import tokens as tokens
from weightspace import weights as weights
from weightspace.analysis.examining import examine as examine
from weightspace.analysis.forecasting import forecast as forecast
from weightspace.analysis.inspecting.checkpoints import inspect_folder as inspect_folder
from weightspace.analysis.layers import layers_of as layers_of
from weightspace.analysis.predicting.calibrating import fit_predictor as fit_predictor
from weightspace.analysis.predicting.predictor import Predictor as Predictor
from weightspace.analysis.probing.comparing import compare_representations as compare_representations
from weightspace.analysis.probing.probe import probe as probe
from weightspace.analysis.representations.catalog import represent as represent
from weightspace.analysis.retrieving import find_nearest as find_nearest
from weightspace.autoencoder.config import SANEConfig as SANEConfig
from weightspace.autoencoder.reconstructing import reconstruct as reconstruct
from weightspace.autoencoder.sane import SANE as SANE
from weightspace.autoencoder.training.config import DistillConfig as DistillConfig
from weightspace.autoencoder.training.config import TrainConfig as TrainConfig
from weightspace.autoencoder.training.distilling import distill as distill
from weightspace.autoencoder.training.pretraining import pretrain as pretrain
from weightspace.corpus.config import PreparationConfig as PreparationConfig
from weightspace.errors import InputError as InputError
from weightspace.evaluation.comparing import evaluate as evaluate
from weightspace.evaluation.config import EvaluateConfig as EvaluateConfig
from weightspace.generation import samplers as samplers
from weightspace.generation.config import SelectConfig as SelectConfig
from weightspace.generation.generating import generate as generate
from weightspace.generation.initializing import initialize as initialize
from weightspace.generation.sampling import Coverage as Coverage
from weightspace.images import open_images as open_images
from weightspace.symmetry.axes import permute as permute
from weightspace.symmetry.axes import random_permutations as random_permutations
from weightspace.symmetry.tracing import trace_symmetry as trace_symmetry
from weightspace.weights.files import open_weights as open_weights
from weightspace.zoo.architecture import Architecture as Architecture
from weightspace.zoo.embeddings import Embeddings as Embeddings
from weightspace.zoo.growing.config import GrowConfig as GrowConfig
from weightspace.zoo.growing.growing import grow as grow
from weightspace.zoo.importing.importing import import_zoo as import_zoo
from weightspace.zoo.splitting import concatenate as concatenate
from weightspace.zoo.writing import publish as publish
from weightspace.zoo.zoo import Zoo as Zoo

__version__: str
__all__: list[str]
