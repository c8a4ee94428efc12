"""Bitstreams: latents to bytes and back, to the same integers on every machine.

    writers.py            write whole files: latents to bytes
    readers.py            read whole files: bytes to latents and pictures
    container.py          the bytes of a file: header, payloads, checksum
    digests.py            digests of the latents in a file, also by a fresh process

    grid_codec.py         latents on a grid (base model), a stack for each image
    bits_back_codec.py    chained bits-back coding (bits-back model), one stack for all images
    tfci.py               the authors' `.tfci`, of their base codec

    integer_model.py      what coding needs of a trained model
    exact_posterior.py    q(z|y), which the decoder of a bits-back archive recovers
    integer_networks.py   the hyperprior's networks on integers
    stack.py              symbols to and from a stack of bits, by integer tables
    tables.py             integer probability tables of p(y|z), p(z) and q(z|y)
    arithmetic.py         functions made of +, -, ×, ÷ and square roots alone

The last six decide about every symbol, which is what makes latents independent of the machine.
tfci.py is the exception: its format has float parameters.
"""
