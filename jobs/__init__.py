"""Jobs to run and to copy from. Each module is a command: python -m jobs.digits_vae --help."""

import os

# TensorFlow's libraries greet on standard error when they load, which a command's output should not begin with.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
