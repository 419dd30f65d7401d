"""The model in training: its engine and its export."""
