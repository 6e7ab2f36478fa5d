"""A captioned set of real images: emoji by four artists, drawn from packages of npm."""
