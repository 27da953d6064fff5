"""The command line: a file a verb. A verb imports what it needs when it is called, so that help comes at once."""
