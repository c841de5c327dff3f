"""AG-MAN: one unit vector per image and fashion attribute.

The package knows torch, torchvision, numpy, Pillow and safetensors, and nothing of clusters or storage.
"""
