"""What flows between the stages: frozen dataclasses of numpy arrays.

`diffuse_framework.model.conventions` has the axes, units and names they share.
"""
