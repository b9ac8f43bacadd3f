"""Parts of the app; MONAI Label loads them by this name."""
