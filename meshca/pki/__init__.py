"""Keys, CSRs, profiles, prepare/lint/sign, chains. Pure: no I/O, no clock; randomness and time are arguments."""
