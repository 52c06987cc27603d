"""Networks of one input channel: built, started from weights, and their losses.

In: a TrainConfig, the side of the films, perhaps a weight file. Out: a module from N x 1 x H x W to N logits, or to N x
T of a shared network; a loss on logits. From elsewhere are imported `builder` (`build_network`, `initial_network`),
`architecture`, `losses`, `encoder` (a frozen network without its last layer, and heads on it) and `normalisation`
(`with_film_area`); `suitability` is run as a process of its own by `orchestrator.planning.backbones`. Read `builder`,
`architecture` (which network a name means, and our own `plain`), `pooling`, `normalisation` (the first step of a
network), `losses`, `pretrained`, `encoder`, `suitability`.
"""

__all__ = ["architecture", "builder", "encoder", "losses", "normalisation"]
