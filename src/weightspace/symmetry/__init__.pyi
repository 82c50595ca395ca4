from weightspace.symmetry.axes import Symmetry as Symmetry
from weightspace.symmetry.axes import compose as compose
from weightspace.symmetry.axes import invert as invert
from weightspace.symmetry.axes import permute as permute
from weightspace.symmetry.axes import random_permutations as random_permutations
from weightspace.symmetry.homogeneity import trace_rescaling as trace_rescaling
from weightspace.symmetry.matching import match_stack as match_stack
from weightspace.symmetry.matching import match_weights as match_weights
from weightspace.symmetry.proving import prove_symmetry as prove_symmetry
from weightspace.symmetry.rescaling import Rescaling as Rescaling
from weightspace.symmetry.rescaling import canonical_factors as canonical_factors
from weightspace.symmetry.rescaling import rescale as rescale
from weightspace.symmetry.tracing import trace_symmetry as trace_symmetry

__all__: list[str]
