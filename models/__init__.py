"""One target, from pixels to a calibrated classifier. Needs torch, torchvision, timm and safetensors; never Ray.

The rooms, in the order of their imports: `files` and `statistics`; `data` <- `network` <- `training` <- `process`.
Below all lies `config` (every training setting), above them `classifier` (a finding's trained networks, ready to
answer). What a room offers to others is the `__all__` of its `__init__.py`.
"""
