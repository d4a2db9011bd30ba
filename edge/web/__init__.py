"""The gateway's status: the document behind `iot-edge status`, and the page that shows it."""
