"""Whether the files here are what was made: against every record, and by measuring and building again."""
