"""The MQTT door: the session with a broker, topics, converters, acknowledgement in order, commands to devices.

Flows in: messages. Flows out: deliveries into the pipeline, and PUBACKs once they are settled. Touches no database.
"""
