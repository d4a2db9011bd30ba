"""Settings: typed, frozen, parsed once, one module for what belongs together. Each part is handed its own section.

An unknown key is a mistake; all mistakes are reported together. Units are in the names.
"""
