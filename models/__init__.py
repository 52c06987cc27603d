"""One target, from pixels to a calibrated classifier. Needs torch, torchvision, timm and safetensors; never Ray."""
