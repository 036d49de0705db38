"""Export: classifier and mechanism in one file that runs without this library."""
