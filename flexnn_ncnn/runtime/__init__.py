"""Executing a plan: native calls, memory and weights. Interprets plans, decides nothing."""
