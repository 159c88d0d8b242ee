"""Prepacked weights: linear layers in the memory layout of the CPU's matrix product."""
