"""An absolute scaler for diffuse_framework: by what the atoms scatter at high angle."""
