"""Configuration: flags, environment and file into frozen models; an unknown key is an error."""
