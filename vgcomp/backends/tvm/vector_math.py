"""exp and erf as polynomials, where calls of the C library would keep a loop from running on vectors.

For fp32 on CPUs; other dtypes and devices have functions of their own, but for erf in Metal. exp is within 4 units in
the last place, erf within as much of 1 (tests/backends/tvm/test_vector_math.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vgcomp.backends.tvm.kernel import Device

#: exp(r) for |r| <= ln(2)/2, highest power first (Cephes, expf).
_EXP = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0,
)  # fmt: skip
#: ln(2) in two parts, the first with few digits, so that its multiples are exact.
_LN2 = (0.693359375, -2.12194440e-4)
#: Beyond these the result is infinite, or no normal number: 0.
_MOST, _LEAST = 88.72283905206835, -87.33654475055310

#: erf(x) = x P(x²) / Q(x²) for |x| <= 4, highest power first (Eigen, perf_erf for float).
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-8, -2.10102402082508e-6, -5.69250639462346e-5, -7.34990630326855e-4,
    -2.95459980854025e-3, -1.60960333262415e-2,
)  # fmt: skip
_ERF_Q = (-1.45660718464996e-5, -2.13374055278905e-4, -1.68282697438203e-3, -7.37332916720468e-3, -1.42647390514189e-2)


def exp(x: Any, device: Device) -> Any:
    """e to the power of ``x``; 0 where that is no normal number."""
    from tvm import tirx

    if device != "cpu" or _dtype(x) != "float32":
        return tirx.exp(x)
    inner = _within(x, _LEAST, _MOST)
    whole = tirx.floor(inner * _const(1 / math.log(2)) + _const(0.5))
    rest = inner - whole * _const(_LN2[0]) - whole * _const(_LN2[1])
    # The power of two is made in two halves: 2^128 is no number, and exp(88.7) is.
    half = tirx.floor(whole * _const(0.5))
    value = _polynomial(_EXP, rest) * _power_of_two(half) * _power_of_two(whole - half)
    value = tirx.Select(x < _const(_LEAST), _const(0.0), value)
    return tirx.Select(x > _const(_MOST), _const(math.inf), value)


def erf(x: Any, device: Device) -> Any:
    """The error function."""
    from tvm import tirx

    dtype = _dtype(x)
    if device == "cuda" or dtype != "float32":
        return tirx.call_pure_extern(dtype, "erf" if dtype == "float64" else "erff", x)
    inner = _within(x, -4.0, 4.0)
    square = inner * inner
    return inner * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)


def _within(x: Any, low: float, high: float) -> Any:
    """``x`` within bounds; what is no number stays none, as every comparison with it fails."""
    from tvm import tirx

    x = tirx.Select(x < _const(low), _const(low), x)
    return tirx.Select(x > _const(high), _const(high), x)


def _polynomial(factors: Sequence[float], x: Any) -> Any:
    """Horner's rule."""
    total = _const(factors[0])
    for factor in factors[1:]:
        total = total * x + _const(factor)
    return total


def _power_of_two(exponent: Any) -> Any:
    from tvm import tirx

    return tirx.reinterpret("float32", (exponent.astype("int32") + 127) << 23)


def _const(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32")


def _dtype(x: Any) -> str:
    return str(x.ty.dtype) if hasattr(x, "ty") else str(x.dtype)
