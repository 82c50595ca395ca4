"""weightspace: trained neural networks as a data type.

Learn a representation of a population of networks' weights (SANE; Schürholt, Mahoney and Borth, ICML 2024), read
networks with it, and write new ones. The public names stand in `__init__.pyi`; each is loaded when it is first used, so
importing the package is quick and has no effect.
"""

import sys

# `python -m weightspace` puts the working folder first on the path: what lies there must not be taken for a library.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and " -m weightspace " in f"{' '.join(sys.orig_argv)} ":
    sys.path.pop(0)

from weightspace.exposing import expose  # only now

__version__ = "0.2.0"
__getattr__, __dir__ = expose(sys.modules[__name__])
