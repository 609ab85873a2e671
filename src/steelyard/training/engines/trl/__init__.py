"""TRL, PEFT, transformers and accelerate in an environment of their own, fed with our ids, masks and order.

engine.py writes the order and starts child in that environment; python.py finds it, install.py makes it.
"""
