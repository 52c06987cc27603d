"""How much memory and disk a training will take, before it is started and without torch.

In: a TrainConfig, the image size, the number of films. Out: bytes. Called by the doctor; the sources of each figure are
stated beside it, and an estimate says whether it stands on the table or on a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.config import TrainConfig

MIB = 2**20
# backbone: (parameters and buffers with one input channel and one output, MiB that one 224 x 224 film leaves for the
# backward pass in fp32). Counted on torch 2.15 and timm with `torch.autograd.graph.saved_tensors_hooks`, batch of 2.
BACKBONES: Mapping[str, tuple[int, float]] = {
    "test_resnet": (374_592, 10.8),
    "plain": (394_070, 16.4),
    "resnet10t": (4_928_455, 20.7),
    "resnet18": (11_180_373, 20.8),
    "resnet26": (13_972_830, 53.0),
    "resnet34": (21_295_973, 30.4),
    "resnet50": (23_556_982, 81.7),
    "resnet101": (42_601_385, 121.0),
    "resnet152": (58_291_164, 169.4),
    "resnext50_32x4d": (23_043_958, 106.9),
    "seresnet50": (26_087_974, 102.9),
    "densenet121": (7_032_378, 124.3),
    "densenet169": (12_638_442, 150.2),
    "efficientnet_b0": (4_050_318, 83.9),
    "efficientnet_b4": (17_674_841, 214.6),
    "mobilenetv3_small_100": (1_530_739, 15.1),
    "mobilenetv3_large_100": (4_227_471, 41.8),
    "convnext_tiny": (27_817_825, 103.7),
    "convnext_base": (87_563_393, 220.9),
    "vit_tiny_patch16_224": (5_426_305, 28.2),
    "vit_small_patch16_224": (21_469_441, 56.3),
    "vit_base_patch16_224": (85_406_209, 112.3),
    "swin_tiny_patch4_window7_224": (27_766_755, 101.4),
}
COUNTED_SIZE = 224
# A training process before its first step: Python, numpy, pyarrow, torch, timm, Ray's worker. Measured, as all host
# figures here, as VmHWM of CPU trainings on Linux x86-64: 834 MiB (test_resnet, 32 pixels, batch 16), 1423 and 1919 MiB
# (resnet18, 224 pixels, batch 8 and 32), 2026 (densenet121, 224 pixels, batch 8).
BASE_BYTES = 900 * MIB
# With a GPU: the CUDA libraries in the process, and the context on the card. Not measured here but of the order that
# CUDA 12 shows; `outcome.json` has the true ones of a finished target (peak_memory_bytes, peak_gpu_bytes).
CUDA_HOST_BYTES = 2500 * MIB
CUDA_CONTEXT_BYTES = 600 * MIB
STATE_COPIES = 4  # weights, gradients, AdamW's two moments
CHECKPOINT_COPIES = 6  # weights and moments once more as tensors and once as the file's bytes, in host memory
# Above what is kept for the backward pass: workspaces of the convolutions, gradients of activations, fragmentation.
WORKING_FACTOR = 1.3
# output_stride: a finer last map. Counted as the table: ResNet-18 1.06 and 1.43 times, EfficientNet-B0 1.24 and 2.80.
STRIDE_FACTORS = {16: 1.25, 8: 2.8}
BYTES_PER_FILM = 120  # targets.npz and predictions.parquet: rows, names, values, logits


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of one training process, and of one (target, member) on disk."""

    host: int  # peak resident memory
    gpu: int  # peak memory of the card; 0 on a CPU
    disk: int  # largest size of its folder, while it trains
    finished: int  # what stays when it is done
    basis: str  # "table" or why it is a guess


def estimate(config: TrainConfig, image_size: int, films: int) -> Estimate:
    """`image_size`: the data set's, unless the config has one; `films`: rows of the data set."""
    weights, _, basis = _backbone(config.backbone)
    batch = config.batch_size * film_bytes(config, image_size)
    cuda = config.device.startswith("cuda")
    if cuda and config.precision != "fp32":
        batch *= 0.6  # most activations in two bytes; norms, loss and the copies of the weights stay at four
    work = int(4 * STATE_COPIES * weights + WORKING_FACTOR * batch)
    host = BASE_BYTES + 4 * CHECKPOINT_COPIES * weights + (CUDA_HOST_BYTES if cuda else work)
    # last.ckpt, previous.ckpt (each weights and moments) and best.safetensors, the last one's successor while it is
    # written, and once more those of the attempt that this one has gone on from
    training = (3 + 3 + 1 + 3) * 4 * weights + (3 + 3 + 1) * 4 * weights
    rows = BYTES_PER_FILM * films
    # branch.ckpt: weights, moments, average; of this attempt, of the one before it, and the published one
    state = (1 + 2 + 1) * 4 * weights if config.branch_epoch else 0
    return Estimate(
        host=host,
        gpu=CUDA_CONTEXT_BYTES + work if cuda else 0,
        disk=training + 3 * state + rows,
        finished=4 * weights + state + rows,
        basis=basis,
    )


def film_bytes(config: TrainConfig, image_size: int) -> float:
    """What one film leaves for the backward pass in fp32; `image_size` as in `estimate`."""
    finer = STRIDE_FACTORS.get(config.output_stride, 1.0)
    return finer * _backbone(config.backbone)[1] * MIB * ((config.image_size or image_size) / COUNTED_SIZE) ** 2


def cache_bytes(films: int, size: int) -> int:
    """images.u8: one byte a pixel. Shared by all processes of a node through the page cache."""
    return films * size * size


def _backbone(name: str) -> tuple[int, float, str]:
    plain = name.partition(".")[0]  # resnet18.a1_in1k: the weights' tag changes nothing
    if plain in BACKBONES:
        return *BACKBONES[plain], "table"
    weights = max(one[0] for one in BACKBONES.values())
    activations = max(one[1] for one in BACKBONES.values())
    return weights, activations, f"guess: {name} is not in the table, so the largest of it is taken"
