"""Rows to tokens to micro-batches: chat templates, blends, packing, and reading files."""
