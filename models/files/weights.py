"""Weight files: a network's weights in a sealed safetensors file.

In: a network. Out: the file's bytes, the same for the same weights, and the checked way back. Called by the trainer.
"""

from pathlib import Path

from torch import Tensor, nn

from models.files.checksummed import seal, unseal

WEIGHTS = "hilum"  # the metadata key


def weights_bytes(network: nn.Module) -> bytes:
    """The network's weights as a file: the same weights give the same bytes."""
    return seal(network.state_dict(), WEIGHTS)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Errors: models.files.checksummed.Damaged."""
    return unseal(path, WEIGHTS)[0]


def require_weights(path: Path) -> None:
    """Errors: models.files.checksummed.Damaged; FileNotFoundError."""
    unseal(path, WEIGHTS)
