"""What the codec is: its networks, its probability models, and where they run.

hyperprior.py      the two models: the loss of everything, from the parts below
transforms.py      g_a, g_s, h_a, h_s
entropy_models.py  p(y|z) and p(z)
layers.py          convolutions and GDN: the definition, and what a GPU runs
cpu_layers.py      the same functions as a CPU likes them, by winograd.py and patch_products.py
device.py          GPU or CPU: the only place that knows
parameters.py      how kernels and GDN's weights are parametrised for training
bounds.py          bounds whose gradients still pull bounded values back
tiling.py          large images, a tile at a time
checkpoints.py     run folders, and the weights in them
"""
