"""The command line `ttame`, whose help waits for no other part of the library."""
