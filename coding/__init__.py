"""Bitstreams: latents to bytes and back, to the same integers on every machine.

    arithmetic.py  functions of +, -, ×, ÷ and square roots alone
    networks.py    the hyperprior's networks on integers; what a decoder needs of a model
    tables.py      integer probability tables of p(y|z), p(z) and q(z|y)
    stack.py       symbols to and from a stack of bits, by such tables
    posterior.py   q(z|y), which the decoder of a bits-back archive recovers

    grid.py        latents on a grid (base model), a stack for each image
    bits_back.py   chained bits-back coding (bits-back model), one stack for all
    packed.py      the reference's `.tfci`, of its base codec

    container.py   the bytes of a file: header, payloads, checksum
    files.py       writers and readers of whole files
    digests.py     digests of the latents in a file, also by a fresh process

Whatever decides about a symbol goes through the first five, which is what makes latents
independent of the machine; but for packed.py, whose format has float parameters.
"""
