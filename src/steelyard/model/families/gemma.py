"""Gemma (the first): served through OpenVINO's converter, not trained."""

from .family import Family

FAMILY = Family(name="gemma", architecture="GemmaForCausalLM")
