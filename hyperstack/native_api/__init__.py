"""The small native API beside Docker's: pods, kernels, doctor. Knows no backend."""
