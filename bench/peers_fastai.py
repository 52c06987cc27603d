"""fastai's side of `bench.peers`, run by the Python of the environment that the benchmark makes for it.

In: a folder with `films.csv` (image_id, path, label, part: train, select, judged) and settings as JSON. Out:
`answer.json`: when each epoch ended, with its AUC on `select`, how many films an epoch trains on, and a score for every
film that is judged. Both forms: Learner, its own augmentations without mirror images, its learning rate finder,
fit_one_cycle, 1 grey channel, its own DataLoaders with a worker for each CPU. The standard form reads the files as they
are; at its best it reads films resized beforehand, normalises by their mean and spread, and computes in bf16 where
hilum does.
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd
import timm
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    ImageBlock,
    Learner,
    Normalize,
    PILImageBW,
    Resize,
    ResizeMethod,
    RocAucBinary,
    aug_transforms,
    set_seed,
)


class Clock(Callback):
    """When each epoch ended, its validation included."""

    order = 100  # after the Recorder, which knows the figures

    def before_fit(self):
        self.rows = []

    def after_epoch(self):
        self.rows.append({"time": time.time(), "auc": float(self.recorder.log[-2])})


def main(folder: Path, settings: dict) -> None:
    set_seed(settings["seed"])
    films = pd.read_csv(folder / "films.csv")
    known = films[films["part"] != "judged"].assign(is_valid=lambda frame: frame["part"] == "select")
    normalised = [Normalize.from_stats([settings["mean"]], [settings["std"]])] if settings["best"] else []
    # Films that were resized beforehand have the size already.
    resized = [] if settings["best"] else [Resize(settings["size"], method=ResizeMethod.Squish)]
    block = DataBlock(
        blocks=(ImageBlock(cls=PILImageBW), CategoryBlock(vocab=[0, 1])),
        get_x=ColReader("path"),
        get_y=ColReader("label"),
        splitter=ColSplitter(),
        item_tfms=resized,
        batch_tfms=[*aug_transforms(do_flip=False, max_rotate=7.0, max_zoom=1.1, max_warp=0.0), *normalised],
    )
    data = block.dataloaders(known, bs=settings["batch"])
    network = timm.create_model(settings["backbone"], num_classes=2, in_chans=1)
    learner = Learner(data, network, metrics=RocAucBinary())
    if settings["best"] and settings["bf16"]:
        learner = learner.to_bf16()
    with learner.no_bar(), learner.no_logging():
        rate = settings["rate"] or learner.lr_find(num_it=settings["tries"], show_plot=False).valley
        clock = Clock()
        learner.fit_one_cycle(settings["epochs"], float(rate), cbs=clock)
        judged = films[films["part"] == "judged"]
        scores = learner.get_preds(dl=data.test_dl(judged))[0][:, 1]
    answer = {
        "epochs": clock.rows,
        "films": len(data.train) * settings["batch"],
        "rate": float(rate),
        "scores": dict(zip(judged["image_id"], scores.tolist(), strict=True)),
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
