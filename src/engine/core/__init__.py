"""Compiled bindings: each module checks, takes pointers and makes one call into csrc/. No policy lives here."""
