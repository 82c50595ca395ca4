from weightspace.weights.files import StoredWeights as StoredWeights
from weightspace.weights.files import open_weights as open_weights
from weightspace.weights.files import read_weights as read_weights
from weightspace.weights.files import write_weights as write_weights
from weightspace.weights.values import Weights as Weights
from weightspace.weights.values import WeightsMismatch as WeightsMismatch

__all__: list[str]
