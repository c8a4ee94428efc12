"""What a training step needs besides the model.

data.py     random patches of the training images
horovod.py  several processes that train one model
"""
