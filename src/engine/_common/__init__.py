"""Helpers of several rooms: vocabularies, options, digests, durable files, argument checks, tables."""
