"""NNCF: one strategy applied to one model, from statistics that strategies share. The only package that imports nncf (lazily)."""

from ovquant.quantization.plain import nncf as _nncf
from ovquant.quantization.plain import quantize

__all__ = ["_nncf", "quantize"]
