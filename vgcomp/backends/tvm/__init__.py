"""TVM: a Program as a Relax module with one static arena, compiled to a shared library.

``layout`` and ``plan`` say where every value lies, ``kernel`` and the ``emit_*`` modules what an op computes,
``lower`` puts the module together, ``build`` compiles it and ``artifact`` is what is deployed. Nothing here imports
``tvm`` before it is needed.
"""
