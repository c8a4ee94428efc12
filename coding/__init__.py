"""Bitstreams: latents to bytes and back, to the same integers on every machine.

arithmetic.py  functions of +, -, ×, ÷ and square roots alone
networks.py    the hyperprior's networks on integers; what a decoder needs of a model
tables.py      integer probability tables of p(y|z), p(z) and q(z|y)
stack.py       symbols to and from a stack of bits, by such tables
container.py   the file: header, payloads, checksum
grid.py        latents on a grid (base model), an entry for each image
bits_back.py   chained bits-back coding (bits-back model)
posterior.py   q(z|y), which the decoder of a bits-back archive recovers
packed.py      the reference's `.tfci`, of its base codec
"""
