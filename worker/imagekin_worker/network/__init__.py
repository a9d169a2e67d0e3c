"""Networks: weights, devices, preprocessing, and a backbone that is ready to run."""
