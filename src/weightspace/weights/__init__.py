"""Weights of one network: named tensors, and the files and wrappers they come in."""

import sys

from weightspace.exposing import expose

__getattr__, __dir__ = expose(sys.modules[__name__])
