"""Scoring: patch set + rung + seed -> Evaluation."""
