"""Cascade: staged reinforcement learning and multi-domain on-policy distillation from one declared recipe."""

__version__ = "0.1.0"
