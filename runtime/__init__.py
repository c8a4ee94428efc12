"""What every program needs around its computation; nothing here knows of images or models.

    errors.py    wrong input: `InputError`, the one line that the user sees
    files.py     bytes read and written, never half
    flags.py     command-line flags as data
    console.py   progress
    signals.py   Ctrl-C and SIGTERM, and how a command ends
    machine.py   cores
    quiet_tf.py  TensorFlow, quiet and quick

All other packages may import this one, which imports none of them.
"""
