"""Evaluation: tasks, prompts, metrics and results, and adapters for the harnesses."""
