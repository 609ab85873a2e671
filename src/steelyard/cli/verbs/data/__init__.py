"""clean, and the verbs of the group `data`."""
