"""Engines that sample completions, token-in and token-out."""
