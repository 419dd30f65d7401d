"""An office in five databases that a model works in with tools, judged by what it leaves behind."""

from cascade.environments.workplace.environment import Workplace

__all__ = ["Workplace"]
