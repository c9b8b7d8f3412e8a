"""The vision towers (SigLIP, CLIP, Qwen-VL, DINOv2, ResNet, timm) that turn pixels into a tensor of features.
May import common."""
