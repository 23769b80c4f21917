"""Learning task after task: streams, strategies, metrics, runs that survive being killed."""
