"""The read side: queries of the pages, REST and the command line."""
