"""What a training step needs besides the model.

cores.py       the cores of a machine, side by side
data.py        random patches of the training images
run_folder.py  settings, records, the start from another model
validation.py  whole images, measured during training
horovod.py     several processes that train one model
"""
