"""Advantages, importance weights and losses: pure functions on tensors, no input or output."""
