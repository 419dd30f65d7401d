"""Causal language models as the policy, the rollout engine and the teachers all see them."""
