"""This machine: what its calibration and its ledger tell of a job."""
