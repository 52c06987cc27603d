"""A plain convolutional network, small enough to read in one sitting: `backbone=plain`.

In: N x channels x H x W films of any size from 16 pixels. Out: N x outputs logits. Built by models.network.builder,
which treats it as one of timm's: the same arguments, the same names of its parts.
"""

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64, 128, 256)  # channels after each block; every block halves the sides


class Block(nn.Module):
    """Convolution, normalisation, rectifier: the three steps that almost every network of films repeats."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)  # the normalisation has the bias
        self.norm = nn.BatchNorm2d(after)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(pixels)))


class Plain(nn.Module):
    """Blocks with halvings between them, the mean over the film, and one linear layer."""

    default_cfg = {"classifier": "head", "first_conv": "blocks.0.conv"}

    def __init__(self, num_classes: int = 1, in_chans: int = 1, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = (in_chans, *WIDTHS)
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(channels[:-1], channels[1:], strict=True))
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """N x 256 x H/16 x W/16: what the last block sees, and where."""
        for number, block in enumerate(self.blocks):
            pixels = block(functional.max_pool2d(pixels, 2) if number else pixels)
        return pixels

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dropout(self.forward_features(pixels).mean(dim=(2, 3))))

    def get_classifier(self) -> nn.Linear:
        return self.head
