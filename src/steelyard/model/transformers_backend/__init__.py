"""Models of any family that transformers has: run by it, in a child of TRL's environment.

environment.py finds that environment; network.py is our side of the child, child.py the other; folder.py
writes what the engine `transformers` serves.
"""
