"""The command line `ttame`; its help imports no other part of the library."""
