"""Making of the weights: low-dose simulation, phantoms, training and evaluation."""
