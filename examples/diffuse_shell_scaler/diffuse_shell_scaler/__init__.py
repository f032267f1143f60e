"""A scaler for diffuse_framework: one scale for each image and resolution shell."""
