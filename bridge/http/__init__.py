"""The HTTP door: connection limits, keys, rate limits, bodies, endpoints, problem documents.

Flows in: requests. Flows out: deliveries into the pipeline, and answers once they are settled. What a valid reading is,
the pipeline decides.
"""
