"""The loops around a step: training, evaluation and gates of one stage."""
