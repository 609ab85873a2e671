"""The child of the engine trl, in TRL's own environment: `PYTHON child JOB.json FD PARENT`.

Imports nothing of steelyard. Reads the order (ids, labels, lengths, rates, first factors) and tells JSON
lines on FD: {"ready"}, {"step"}, {"checkpoint"}, at last {"done"}, {"stopped"} or {"failed"}. What libraries
print is none of it. SIGTERM stops it after the step under way. Killed at any moment it goes on from its last
whole checkpoint.
Of several processes (group) the first one tells and writes; any tells why it failed.

main (process, last word) -> run (one training) -> trainer (TRL, with our order, rates, curve) -> model, rows
-> checkpoints, group, telling
"""
