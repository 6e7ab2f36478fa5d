"""A captioned set of real pictures: emoji by four artists, drawn from packages of npm."""
