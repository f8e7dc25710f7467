"""A checkpoint folder to a Hub repository: the files to send, the card, and the one commit of both."""
