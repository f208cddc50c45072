"""The report of a run: one page that opens offline, made of the files that the stages have written."""
