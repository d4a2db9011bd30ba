"""The bundle that an engineer mails home: what is known of a gateway, in one file, without a secret.

    settings, status, check, journal, figures, versions ──► redaction ──► bundle (tar.gz)

Each part is made by itself: one that cannot be made is a line in the README of the bundle, never the end of it.
"""
