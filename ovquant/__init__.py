"""Searches post-training quantization strategies for OpenVINO models with a genetic algorithm, for one target device."""
