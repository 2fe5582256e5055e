"""Scores of outputs: metrics against labels, divergence from the reference, and their intervals."""
