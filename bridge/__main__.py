"""`python -m bridge` is `iot-bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main()
