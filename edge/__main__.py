"""`python -m edge`: the same as `iot-edge`."""

from edge.cli import entry

if __name__ == "__main__":
    entry()
