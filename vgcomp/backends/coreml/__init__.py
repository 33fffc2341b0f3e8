"""Core ML: a Program as ML Programs for the Neural Engine, a package a part.

``registry`` and the ``emit_*`` modules say what an op becomes, ``scope`` holds the values and folds constants,
``build`` makes one part's package, ``artifact`` is what is deployed. ``package`` and ``reference`` read a package back
from its bytes and compute it, apart from all that: they share nothing with the emitter. Nothing here imports
``coremltools`` before it is needed.
"""
