"""What networks do: their units and outputs on synthetic inputs, without labels and without data."""

import sys

from weightspace.exposing import expose

__getattr__, __dir__ = expose(sys.modules[__name__])
