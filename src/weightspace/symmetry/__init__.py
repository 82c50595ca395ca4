"""Which tensor axes may be permuted, or scaled, together without changing what a network computes."""

import sys

from weightspace.exposing import expose

__getattr__, __dir__ = expose(sys.modules[__name__])
