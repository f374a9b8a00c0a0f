"""What `tools/fuzz_models.py` and its test share: small modules, data sets and settings at random; what must hold."""
