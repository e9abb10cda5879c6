"""Readers of trained models: one module a format, each from bytes or a fitted object to a `Model`."""
