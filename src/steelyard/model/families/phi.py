"""Phi 1, 1.5 and 2: served through OpenVINO's converter, not trained."""

from .family import Family

FAMILY = Family(name="phi", architecture="PhiForCausalLM")
