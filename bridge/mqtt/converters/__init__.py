"""Payloads of devices whose firmware stays as it is: bytes of other people's formats in, `Packet` out.

    topic ──► select: the first filter that matches ──► the format's decoder ──► Packet (or nothing, or DecodeError)

Every decoder is a pure function of a `IncomingMessage`; one format, Sparkplug, needs what came before and keeps
it in a state machine of its own. Sensors are named by external ids. See docs/converters.md.
"""
