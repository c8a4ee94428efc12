"""Elementary functions with bit-identical results on every machine.

They are built from float64 +, -, ×, ÷ and square roots in a fixed order, whose rounding IEEE 754
specifies, and from exact operations (powers of two, floor, comparisons). A C library's `exp` or
`erf` may differ in the last bit between machines, and then the decoder loses track of the encoder.

`exp`, `tanh`, `sigmoid` and `normal_tail` take arrays, and also scalars where numba compiles them
(`compiled.py`).
"""

import functools
import math

import numpy as np

LN2 = 0.6931471805599453
LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693147180369123816490  # the first 33 bits of LN2, so that small multiples are exact
_LN2_LOW = 1.90821492927058770002e-10
_EXP = tuple(1 / math.factorial(k) for k in range(13))  # Taylor's series
_LOG = tuple(1 / (2 * k + 1) for k in range(12))  # Taylor's series of artanh(s) / s, in s²
_TO_INTEGER = 1.5 * 2.0**52  # adding it leaves an integer below 2^51 in the low bits


def exp(x):
    """exp(x); relative error below 1e-14. |x| is clipped to 700."""
    x = np.minimum(np.maximum(x, -700.0), 700.0)
    n = np.floor(x * LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    bits = np.float64(n + _TO_INTEGER).view(np.int64)  # n, in the lowest 12
    return _polynomial(r, _EXP) * np.int64((bits << 52) + (1023 << 52)).view(np.float64)  # 2^n


def log(x):
    """Natural logarithm of positive x; relative error below 1e-14."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < 0.75
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    series = _polynomial(s * s, _LOG)
    return exponent * LN2 + 2 * s * series


def tanh(x):
    """tanh(x); absolute error below 1e-15."""
    return 1 - 2 / (exp(2 * x) + 1)


def sigmoid(x):
    """1 / (1 + exp(-x)); relative error below 1e-14."""
    return 1 / (1 + exp(-x))


def softplus(x):
    """log(1 + exp(x)); absolute error below 1e-15."""
    return np.maximum(x, 0) + log(1 + exp(-np.abs(x)))


# P in Q(u) exp(u²/2) ≈ t P(t), t = 1 / (1 + 0.3 u): least squares on Chebyshev nodes for u ≤ 40.
_TAIL = (
    *(0.119682617482, 0.119685842802, 0.108847701616, 0.0880866358139),
    *(0.0528678178503, 0.0504476874064, -0.0759753461277, 0.152043654474),
    *(-0.252956840367, 0.206161307288, -0.0820080979306, 0.0131170198335),
)


def normal_tail(u):
    """Upper tail Q(u) of the standard normal distribution, and exp(-u²/2), for u ≥ 0.

    The relative error of Q is below 1e-9 up to u = 37; u is clipped to 37.
    """
    u = np.minimum(u, 37.0)
    bell = exp(-0.5 * (u * u))
    t = 1 / (1 + 0.3 * u)
    return bell * t * _polynomial(t, _TAIL), bell


def normal_cdf(u):
    """Distribution function of the standard normal distribution; absolute error below 1e-9."""
    tail, _ = normal_tail(np.abs(u))
    return np.where(u < 0, tail, 1 - tail)


@functools.lru_cache()
def normal_quantiles(bits):
    """The 2^bits equally probable values that approximate a standard normal variable."""
    p = (np.arange(2 ** (bits - 1)) + 0.5) / 2**bits
    u = np.zeros_like(p)
    for _ in range(60):  # Newton's method on log Q, which is concave, from below
        tail, bell = normal_tail(u)
        u += tail * log(tail / p) / (bell * 0.3989422804014327)
    return np.concatenate([-u, u[::-1]])


def _polynomial(x, coefficients):
    """Evaluates a polynomial by Horner's scheme; `coefficients` start with the lowest power."""
    value = coefficients[-1] * x + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value *= x
        value += coefficient
    return value
