"""Services that every program needs around its computation, independent of images and models.

    errors.py    invalid input: `InputError`, the one line that the user sees
    files.py     whole-file reads and atomic writes
    flags.py     command-line flags as data
    console.py   progress
    signals.py   Ctrl-C and SIGTERM, and how a command ends
    machine.py   CPU cores, memory and the name of the processor
    quiet_tf.py  TensorFlow without its warnings and with faster settings

All other packages may import this one, which imports none of them.
"""
