"""Bitstreams: conversion of latents to bytes and back, to the same integers on every machine.

    writers.py            write whole files: latents to bytes
    readers.py            read whole files: bytes to latents and pictures
    container.py          the bytes of a file: header, payloads, checksum
    digests.py            digests of a file's latents, also computed by a fresh process

    grid_codec.py         latents on a grid (base model), a stack for each image
    bits_back_codec.py    chained bits-back coding (bits-back model), one stack for all images
    tfci.py               the `.tfci` format of the authors' base codec

    decoding.py           latents from bytes and a model's integers, without TensorFlow
    integer_model.py      the parts of a trained model that coding needs
    exact_posterior.py    q(z|y), which the decoder of a bits-back archive recomputes
    compiled.py           the same, compiled for all cores
    kernels.py            the functions that numba compiles
    integer_networks.py   the hyperprior's networks on integers
    stack.py              a stack of bits that symbols are coded to and from, by integer tables
    tables.py             integer probability tables of p(y|z), p(z) and q(z|y)
    arithmetic.py         functions built only from +, -, ×, ÷ and square roots

The last nine determine every symbol, and make decoded latents independent of the machine. tfci.py
is the exception: its format has float parameters.
"""
