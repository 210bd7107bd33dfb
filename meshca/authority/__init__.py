"""The authority ring: states, one transition table, decide, apply. Pure: time is an argument."""
