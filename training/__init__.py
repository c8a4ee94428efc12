"""Everything that training needs besides the model.

cores.py       splits a training step among the cores of a machine
data.py        random patches of the training images
hooks.py       checkpoints of sound models, and summaries
run_folder.py  settings, records, and initialisation from another model
validation.py  measurements on whole images during training
horovod.py     several processes that train one model
"""
