"""Who a key belongs to, what an account may do at an MQTT broker, and who was not let in.

Flows in: keys and account names. Flows out: their owners, cached, and verdicts. The gateway uses it too, so it knows
neither HTTP nor a database: look-ups are handed in.
"""
