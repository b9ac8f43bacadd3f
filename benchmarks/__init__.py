"""What monai_kd costs beside the straightforward forms, side by side: ``python -m benchmarks --help``."""
