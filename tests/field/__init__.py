"""The installed package on a Debian that boots: what an engineer does with it, and what the field does to it."""
