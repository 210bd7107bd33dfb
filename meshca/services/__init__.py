"""Use cases: classes of injected ports with a few public verbs."""
