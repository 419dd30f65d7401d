"""Frozen checkpoints: who they are, how good, and what they think of a token."""
