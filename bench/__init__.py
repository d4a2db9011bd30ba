"""Speed and memory, measured against ceilings of the same run: `python -m bench`."""
