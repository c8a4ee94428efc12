"""What the codec is.

hyperprior.py      the two models: the loss of everything, from the parts below
transforms.py      g_a, g_s, h_a, h_s
entropy_models.py  p(y|z) and p(z)
cpu_layers.py      convolutions and GDN, as a processor likes them
tiling.py          large images, a tile at a time
checkpoints.py     run folders, and the weights in them
"""
