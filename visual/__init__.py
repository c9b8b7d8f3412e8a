"""The vision towers, SigLIP and CLIP, that turn pixels into a tensor of features.
May import common."""
