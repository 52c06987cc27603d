"""Commands that make and look at data: `hilum phantom`, `prepare`, `merge`, `embed`, `split`, `labels audit`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, progress_bar, say, show_table
from orchestrator.cli.options import DATA, Findings, examples, shown
from orchestrator.storage.workspace import place


def register(app: typer.Typer) -> None:
    films = "--labels demo/more/train.csv --images demo/more"
    app.command(**shown(DATA, "phantom demo/more --patients 60 --seed 2 --size 64"))(phantom)
    looks = "labels audit demo/films/train.csv"
    labels_app = typer.Typer(no_args_is_help=True, help="Look at a label file.", epilog=examples(looks))
    labels_app.command("audit", epilog=examples(looks, f"{looks} --frontal --json"))(audit)
    app.add_typer(labels_app, name="labels", rich_help_panel=DATA)
    app.command(**shown(DATA, f"prepare chexpert {films} --out demo/more-dataset --size 64"))(prepare)
    app.command(**shown(DATA, "merge demo/dataset data/nih --out demo/both"))(merge)
    network = "--encoder demo/run/lung_opacity"
    app.command(**shown(DATA, f"embed demo/dataset {network}"))(embed)
    gives = "split share demo/dataset --out demo/split.json --salt OUR-SECRET"
    split_app = typer.Typer(
        no_args_is_help=True, help="Give a split away, or compare with one.", epilog=examples(gives)
    )
    split_app.command("share", epilog=examples(gives))(share)
    split_app.command("check", epilog=examples("split check demo/dataset demo/split.json --salt OUR-SECRET"))(check)
    app.add_typer(split_app, name="split", rich_help_panel=DATA)


def phantom(
    out: Annotated[Path, Argument(help="Folder to write: train.csv, truth.csv and the films.")],
    patients: Annotated[int, Option(help="How many patients; each has 1 to 4 studies.")] = 900,
    seed: Annotated[int, Option(help="Same seed, same bytes.")] = 0,
    size: Annotated[int, Option(help="Longer side of a film in pixels.")] = 320,
    prevalence: Annotated[str, Option(help="demo (15 to 35 % per finding) or chexpert.")] = "demo",
    labels: Annotated[str, Option(help="clean (the truth) or chexpert (1, 0, -1 and blank at its rates).")] = "clean",
    laterals: Annotated[bool, Option(help="Write lateral films too.")] = True,
) -> None:
    """Draw synthetic chest X-rays with planted findings, in CheXpert's own layout."""
    from pathologies.phantom.writer import PhantomConfig, write_phantom

    config = PhantomConfig(
        patients=patients, seed=seed, size=size, prevalence=prevalence, labels=labels, laterals=laterals
    )
    started = time.monotonic()
    with progress_bar("drawing films") as bar:
        task = bar.add_task("films", total=None)
        table = write_phantom(out, config, lambda done, total: bar.update(task, completed=done, total=total))
    say(f"{table} and its films are complete ({time.monotonic() - started:.0f} s).")
    say(f"Next: hilum prepare chexpert --labels {table} --images {out} --out DATASET --size 320")


def prepare(
    source: Annotated[str, Argument(help="Dialect of the label file: chexpert, nih, ...")],
    labels: Annotated[Path, Option(help="The label file.")],
    images: Annotated[Path, Option(help="The folder of the images.")],
    out: Annotated[Path, Option(help="The data set's folder.", parser=place)],
    size: Annotated[int, Option(help="Side of the prepared square images in pixels.")] = 320,
    patients: Annotated[int | None, Option(help="Take a random subset of so many patients.")] = None,
    fractions: Annotated[str, Option(help="Shares of train, select, calibrate and test.")] = "0.6,0.1,0.15,0.15",
    seed: Annotated[int, Option(help="Of the split and of the random subset.")] = 0,
    fold: Annotated[str | None, Option(help="i/k: fold i of k is the test part.")] = None,
    official: Annotated[bool, Option("--official", help="Keep the source's own test (and validation) set.")] = False,
    shared_split: Annotated[Path | None, Option(help="Take the parts over from a shared split.")] = None,
    salt: Annotated[str, Option(help="The shared split's salt.", envvar="HILUM_SALT")] = "",
    frontal: Annotated[bool, Option("--frontal", help="Frontal films only.")] = False,
    first_studies: Annotated[int | None, Option(help="Only studies with a number up to this one.")] = None,
    projections: Annotated[str, Option(help="Only these projections, e.g. AP,PA.")] = "",
    option: Annotated[list[str] | None, Option(help="name=value of the source, e.g. official_lists=DIR.")] = None,
    findings: Findings = None,
    max_rejected: Annotated[float, Option(help="Largest share of unusable images.")] = 0.1,
    workers: Annotated[int | None, Option(help="Decoding workers; none: one per CPU.")] = None,
    intensity: Annotated[int | None, Option(help="Version of the intensity contract; none: the newest.")] = None,
) -> None:
    """Read a label file, decode and letterbox its images once, and split the patients into four parts."""
    given = locals()
    from orchestrator import api

    with progress_bar("decoding") as bar:
        task = bar.add_task("images", total=None)

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                bar.update(task, completed=event["done"], total=event["total"])
            else:
                say(event["message"])

        result = api.prepare(**given, progress=on_event)
    show_parts(result.details)
    say(f"Next: hilum train {out} --out RUN")


def merge(
    datasets: Annotated[list[Path], Argument(help="Prepared data sets of one size.", parser=place)],
    out: Annotated[Path, Option(help="The joined data set's folder.", parser=place)],
) -> None:
    """Join prepared data sets; a finding that one of them does not label is unknown there."""
    from orchestrator.datasets.dataset import is_manifest
    from orchestrator.datasets.merge import merge as run
    from orchestrator.storage.workspace import Workspace

    with Workspace() as workspace:
        read = [workspace.read_dataset(one) for one in datasets]
        folder = workspace.write(out, is_manifest)
        show_parts(run(read, folder, lambda event: say(event["message"])))
    say(f"Next: hilum train {out} --out RUN")


def embed(
    dataset: Annotated[Path, Argument(help="A prepared data set, in a folder of this machine.")],
    encoder: Annotated[
        str, Option(help="timm's name, hf-hub:OWNER/NAME, local-dir:FOLDER, RUN/shared or RUN/<finding>.")
    ],
    weights: Annotated[Path | None, Option(help="A weight file of that backbone; none: its own weights.")] = None,
    size: Annotated[int | None, Option(help="Side of the films; none: that which the weights were made at.")] = None,
    normalisation: Annotated[
        str,
        Option(help="encoder: mean and spread that its weights were made with; dataset: of the films; or MEAN,SPREAD."),
    ] = "encoder",
    device: Annotated[str, Option(help="cuda where there is one, else cpu.")] = "auto",
    threads: Annotated[int | None, Option(min=1, help="CPU threads; none: one for each core.")] = None,
) -> None:
    """Compute a frozen encoder's features of all films once, for `hilum train --heads`."""
    from models.network.encoder import EncoderWish
    from orchestrator.datasets.embed import EmbedRequest
    from orchestrator.datasets.embed import embed as run

    wish = EncoderWish(encoder=encoder, weights=weights, size=size, normalisation=normalisation)
    with progress_bar("embedding") as bar:
        task = bar.add_task("films", total=None)

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                bar.update(task, completed=event["done"], total=event["total"])
            else:
                say(event["message"])

        found = run(EmbedRequest(dataset=dataset, wish=wish, device=device, threads=threads), on_event)
    one, cost = found["encoder"], found["seconds_per_film"]
    say(
        f"{found['films']} films, {one['features']} features each, at {one['size']} pixels a side with mean "
        f"{one['pixel_mean']:.3f} and spread {one['pixel_std']:.3f}: {dataset / 'features' / found['digest']}"
        + ("." if found["computed"] else " (there already).")
        + (f" {cost:.3f} s a film on {found['device']}." if cost and found["computed"] else "")
    )
    say(f"Next: hilum train {dataset} --out RUN --heads --encoder {found['digest']}")


def share(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    out: Annotated[Path, Option(help="The JSON file to write.")],
    salt: Annotated[str, Option(help="Secret of those who may have the data.", envvar="HILUM_SALT")],
) -> None:
    """Write which image lies in which part, under salted names, for others with the same data."""
    from models.files.layout import write_json
    from orchestrator.datasets.dataset import load_dataset
    from orchestrator.storage.staging import staged_dataset
    from pathologies.splits.shared_split import share_split

    with staged_dataset(dataset) as folder:
        opened = load_dataset(folder)
        write_json(out, share_split(opened.read_labels_frame(), opened.parts(), salt))
    say(f"{out} is written. Others take it over with `hilum prepare ... --shared-split {out} --salt ...`.")


def check(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    shared: Annotated[Path, Argument(help="A shared split.")],
    salt: Annotated[str, Option(help="The salt it was made with.", envvar="HILUM_SALT")],
) -> None:
    """Compare a data set's parts with a shared split."""
    from models.files.layout import read_json
    from orchestrator.datasets.dataset import load_dataset
    from orchestrator.storage.staging import staged_dataset
    from pathologies.splits.shared_split import check_split

    with staged_dataset(dataset) as folder:
        opened = load_dataset(folder)
        check_split(read_json(shared), opened.read_labels_frame(), opened.parts(), salt)
    say(f"{dataset} has the parts of {shared}.")


def audit(
    labels: Annotated[Path, Argument(help="The label file.")],
    source: Annotated[str, Option(help="Dialect of the label file: chexpert, nih, ...")] = "chexpert",
    frontal: Annotated[bool, Option("--frontal", help="Frontal films only.")] = False,
    first_studies: Annotated[int | None, Option(help="Only studies with a number up to this one.")] = None,
    projections: Annotated[str, Option(help="Only these projections, e.g. AP,PA.")] = "",
    as_json: Annotated[bool, Option("--json", help="Everything counted, as JSON on standard output.")] = False,
    pictures: Annotated[Path | None, Option(help="Folder for the audit as PNG.")] = None,
    option: Annotated[list[str] | None, Option(help="name=value of the source, e.g. mapping=FILE.toml.")] = None,
    findings: Findings = None,
) -> None:
    """Count the labels of a file, before and after the label contract."""
    import json

    from orchestrator.option_values import read_source_options, read_words
    from pathologies.findings.catalog import load_catalog
    from pathologies.labels.audit import AUDIT_HEADER, audit_facts, audit_labels, audit_rows, cooccurrence_rows
    from pathologies.labels.filters import filter_frame
    from pathologies.sources.registry import read_labels

    catalog = load_catalog(findings)
    read = read_labels(source, labels, catalog=catalog, **read_source_options(option))
    frame, dropped = filter_frame(
        read.frame, frontal=frontal, first_studies=first_studies, projections=read_words(projections)
    )
    report = audit_labels(frame, catalog, dropped=dropped, notes=read.notes)
    if pictures is not None:
        from orchestrator.datasets.audit_plots import write_audit_pictures

        for path in write_audit_pictures(report, pictures):
            say(f"{path}")
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    show_table(AUDIT_HEADER, audit_rows(report), f"{report['rows']} rows")
    show_table(*cooccurrence_rows(report))
    output.print("\n".join(audit_facts(report)), markup=False)
    for note in read.notes:
        say(note)


def show_parts(manifest: dict[str, Any]) -> None:
    """Films, patients and positives of every part."""
    from orchestrator.datasets.dataset import part_rows

    titles, (films, patients, *findings) = part_rows(manifest)
    rejected = sum(manifest["rejected"].values())
    rows = [films, patients, *[[f"  {slug}", *counts] for slug, *counts in findings]]
    show_table(titles, rows, f"{manifest['images']} films, {rejected} rejected")
