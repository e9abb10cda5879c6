"""What several rooms need and none owns: vocabularies, digests, durable files, checks of arguments."""
