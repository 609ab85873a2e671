"""One file with all that a machine without a network needs (bundle.py); `install.py` is what runs there."""
