"""A stack of bits that symbols are pushed onto and popped from, with integer tables.

The coder is constriction's (asymmetric numeral systems). Symbols are grouped by table, because
setting up a table takes longer than coding a symbol.
"""

import numpy as np
from constriction import stream

from runtime.errors import InputError

WORD_BYTES = 4
_STATE_WORDS = 2


def words_of(payload):
    """Converts the bytes in a file to the words of a stack.

    Raises:
      InputError: the bytes are not a stack.
    """
    words = np.frombuffer(payload, "<u4")
    if len(words) and words[-1] == 0:
        raise InputError("not written by this program: a file whose last word is 0")
    return words


def bytes_of(words):
    """Converts the words of a stack to the bytes in a file."""
    return words.astype("<u4").tobytes()


class Exhausted(Exception):
    """Raised if more bits were popped than the stack had."""


class Stack:
    """A last-in, first-out stack of bits.

    Args:
      words: uint32, bottom first; the last one, the top, is not 0.

    Attributes:
      lowest: the number of `words` at the bottom that no operation so far has needed.
    """

    def __init__(self, words=()):
        words = np.asarray(words, np.uint32)
        self._coder = stream.stack.AnsCoder(words) if len(words) else stream.stack.AnsCoder()
        self.lowest = max(len(words) - _STATE_WORDS, 0)

    def copy(self):
        """A new stack with the same bits."""
        return Stack(self.words())

    def raised(self, words):
        """A new stack, which has these words below the bits of this one."""
        stack = Stack(np.concatenate([words, self.words()]))
        stack.lowest = self.lowest + len(words)
        return stack

    def words(self):
        """The bits as uint32 words, bottom first."""
        return self._coder.get_compressed()

    def __len__(self):
        return self._coder.num_words()

    def is_empty(self):
        return self._coder.is_empty()

    def push(self, symbols, codes, family):
        """Pushes symbols so that `pop` with the same codes and tables returns them.

        Args:
          symbols: integers, |symbol| < 2^31.
          codes: integers of the same shape, which identify the table of each symbol.
          family: has `tables(codes)`, which returns the `tables.Table`s for a 1-D array of codes,
            and `escape`, whether they have an entry for escaped symbols.

        Raises:
          InputError: a symbol is outside a table that has no escape.
        """
        symbols = np.asarray(symbols, np.int64).ravel()
        groups = _groups(codes, family)
        entries = np.zeros(len(symbols), np.int32)
        for places, table in groups:
            entry = symbols[places] - (table.first - family.escape)
            inside = (entry >= family.escape) & (entry < len(table.probabilities))
            if not (family.escape or inside.all()):
                raise InputError("not written by this program: a symbol that cannot occur")
            entries[places] = np.where(inside, entry, 0)
        if family.escape:
            self._push_escaped(symbols[entries == 0])
        for places, table in reversed(groups):
            self._coder.encode_reverse(entries[places], _model(table))

    def pop(self, codes, family):
        """Pops one symbol for each of `codes`; returns an int64 array of the same shape.

        Raises:
          InputError: an escaped symbol that its table contains, which no encoder writes; an
            exhausted stack decodes to this.
        """
        symbols, low, high = np.zeros((3, np.size(codes)), np.int64)
        escaped = np.zeros(np.size(codes), bool)
        for places, table in _groups(codes, family):
            entry = self._coder.decode(_model(table), len(places))
            escaped[places] = family.escape & (entry == 0)
            symbols[places] = entry + (table.first - family.escape)
            low[places], high[places] = table.first, table.first + len(table.probabilities) - 2
        symbols[escaped] = self._pop_escaped(np.count_nonzero(escaped))
        if np.any(escaped & (symbols >= low) & (symbols <= high)):
            raise InputError("not written by this program: a needless escape")
        self.lowest = min(self.lowest, max(len(self) - _STATE_WORDS, 0))
        return symbols.reshape(np.shape(codes))

    def check(self):
        """Raises `Exhausted` if more bits were popped than the stack had.

        While words are left, the coder's state has more than 32 bits. Once none are left, popping
        shrinks the state, and only pushing makes it grow.
        """
        if len(self) < _STATE_WORDS:
            raise Exhausted

    def _push_escaped(self, symbols):
        """Pushes symbols outside their tables: for each, its bytes and their number minus 1."""
        folded = np.where(symbols < 0, -2 * symbols - 1, 2 * symbols).astype("<u4")
        content = folded.view(np.uint8).reshape(-1, 4)
        lengths = 1 + np.sum([folded >= 256**k for k in (1, 2, 3)], axis=0)
        used = np.arange(4) < lengths[:, None]
        self._push_uniform(content[used], 256)
        self._push_uniform(lengths - 1, 4)

    def _pop_escaped(self, number):
        lengths = 1 + self._pop_uniform(number, 4)
        used = np.arange(4) < lengths[:, None]
        content = np.zeros((number, 4), np.uint8)
        content[used] = self._pop_uniform(np.count_nonzero(used), 256)
        folded = content.view("<u4")[:, 0].astype(np.int64)
        return np.where(folded % 2, -(folded + 1) // 2, folded // 2)

    def _push_uniform(self, symbols, size):
        if len(symbols):
            self._coder.encode_reverse(symbols.astype(np.int32), stream.model.Uniform(size))

    def _pop_uniform(self, number, size):
        if not number:
            return np.zeros(0, np.int64)
        return self._coder.decode(stream.model.Uniform(size), number)


def _groups(codes, family):
    """The positions and the table of each distinct code, in ascending order of codes."""
    codes = np.ravel(codes)
    order = np.argsort(codes, kind="stable")
    distinct, starts = np.unique(codes[order], return_index=True)
    return list(zip(np.split(order, starts[1:]), family.tables(distinct)))


def _model(table):
    # The coder converts these floats to multiples of 2^-24. They are multiples of it already, and
    # any other choice would be worse by more than rounding errors (see tests/test_coding.py).
    return stream.model.Categorical(table.probabilities)
