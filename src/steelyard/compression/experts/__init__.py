"""Of a mixture of experts those that the rows use least: counted, chosen, and left out of a copy.

counts.py asks the routers and chooses, pure but for the asking; cut.py writes what stays; step.py is both.
"""
