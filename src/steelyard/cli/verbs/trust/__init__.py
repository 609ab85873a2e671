"""attest, seal, open, rotate, keys, sign, verify, receipt, sbom: who may read, who made it, what it is of."""
