"""Weights to tokens and back: fixed-width slices, where they came from, and windows of them."""

import sys

from weightspace.exposing import expose

__getattr__, __dir__ = expose(sys.modules[__name__])
