"""The coder of `coding/stack.py`, asymmetric numeral systems, in Python's integers.

It has constriction's interface, as far as `stack.py` uses it, and its results, by its definition:
words of 32 bits, a state of 64, probabilities in multiples of 2^-24. `python tests/ans.py` runs
`coding.decoding` with it, where constriction has no build (PyPI has none for Linux on ARM).
"""

import bisect
import os
import sys
import types

import numpy as np

BITS = 24
TOTAL = 1 << BITS


class AnsCoder:
    def __init__(self, words=()):
        self._words = [int(word) for word in words]
        self._state = 0
        while self._state < 1 << 32 and self._words:
            self._state = self._state << 32 | self._words.pop()

    def get_compressed(self):
        state = [self._state >> shift & 0xFFFFFFFF for shift in (0, 32) if self._state >> shift]
        return np.array(self._words + state, np.uint32)

    def num_words(self):
        return len(self.get_compressed())

    def is_empty(self):
        return not self._state

    def encode_reverse(self, symbols, bounds):
        for symbol in symbols[::-1]:
            low, high = bounds[symbol], bounds[symbol + 1]
            if self._state >> 64 - BITS >= high - low:
                self._words.append(self._state & 0xFFFFFFFF)
                self._state >>= 32
            quotient, rest = divmod(self._state, high - low)
            self._state = (quotient << BITS) + low + rest

    def decode(self, bounds, number):
        symbols = []
        for _ in range(number):
            place = self._state % TOTAL
            symbol = bisect.bisect_right(bounds, place) - 1
            low, high = bounds[symbol], bounds[symbol + 1]
            self._state = (self._state >> BITS) * (high - low) + place - low
            if self._state < 1 << 32 and self._words:
                self._state = self._state << 32 | self._words.pop()
            symbols.append(symbol)
        return np.array(symbols, np.int32)


def categorical(probabilities):
    """The edges of the symbols' intervals, in multiples of 2^-24."""
    frequencies = [int(p) for p in np.rint(np.asarray(probabilities) * TOTAL)]
    bounds = [0]
    for frequency in frequencies:
        bounds.append(bounds[-1] + frequency)
    return bounds


def uniform(size):
    return [TOTAL // size * k for k in range(size)] + [TOTAL]


stream = types.SimpleNamespace(
    stack=types.SimpleNamespace(AnsCoder=AnsCoder),
    model=types.SimpleNamespace(Categorical=categorical, Uniform=uniform),
)

if __name__ == "__main__":
    sys.modules["constriction"] = types.SimpleNamespace(stream=stream)
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from coding import decoding

    decoding.main()
