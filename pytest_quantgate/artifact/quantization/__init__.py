"""Quantized models: what a recipe says, whether it fits a model, and the engine's quantizer."""
