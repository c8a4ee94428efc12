"""The codec: its networks, its probability models, and the device that they run on.

hyperprior.py      the two models, and the rate-distortion loss that every use of them shares
transforms.py      g_a, g_s, h_a, h_s
entropy_models.py  p(y|z) and p(z)
layers.py          convolutions and GDN: the definition, and the version for GPUs
cpu_layers.py      the same functions, fast on CPUs, with winograd.py and patch_products.py
device.py          the choice between GPU and CPU, made nowhere else
parameters.py      how kernels and GDN's weights are parametrised for training
bounds.py          bounds with gradients that can move a bounded value back
stored.py          large constants that sessions do not copy
tiling.py          large images, a tile at a time
checkpoints.py     run folders, and the weights in them
"""
