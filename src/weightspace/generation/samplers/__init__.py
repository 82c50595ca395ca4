"""Samplers: fitted to the latents of anchors, they draw latents of new networks."""

import sys

from weightspace.exposing import expose

__getattr__, __dir__ = expose(sys.modules[__name__])
