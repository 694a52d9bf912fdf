"""A target for tests: 'training' averages numbers from a feeder, and a judge asks a server what it learnt."""
