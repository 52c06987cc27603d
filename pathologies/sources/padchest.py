"""PadChest (Bustos et al., Medical Image Analysis 2020): `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv(.gz)`.

Goes in: a row per image with the labels of its report as one cell, "['pleural effusion', ' cardiomegaly']". Comes out:
the label frame. Called through `registry.read_labels`.

A finding is present where any of its labels stands in the list, and absent where none does. Where the report says
'unchanged' beside others (and not 'normal'), what is not listed is unknown. Left out, with the reason:
images without a label list, reports that are 'unchanged' and nothing else, and those marked 'exclude' or 'suboptimal
study'. A quarter of the reports were labelled by physicians, the others by a network (option `labelled_by`).
"""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.labels.frame import UNKNOWN
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

COLUMNS = {
    "image": ["ImageID"],
    "folder": ["ImageDir"],
    "date": ["StudyDate_DICOM"],
    "study": ["StudyID"],
    "patient": ["PatientID"],
    "birth": ["PatientBirth"],
    "sex": ["PatientSex_DICOM"],
    "projection": ["Projection"],
    "labelled_by": ["MethodLabel"],
    "labels": ["Labels"],
}
PROJECTIONS = {
    "PA": ("frontal", "PA"),
    "AP": ("frontal", "AP"),
    "AP_horizontal": ("frontal", "AP"),
    "L": ("lateral", ""),
    "COSTAL": ("", ""),
}
EXCLUDED_PROJECTION = "EXCLUDE"
LABELLED_BY = {"any": None, "physician": "Physician", "model": "RNN_model"}
NORMAL, UNCHANGED, UNUSABLE = "normal", "unchanged", ("exclude", "suboptimal study")
# The labels that PadChest publishes (release 01.02.19), in lower case: facts, listed so that a strange one is seen.
# Which of them mean a finding here stands in the finding's own file.
KNOWN_LABELS = frozenset(
    label.strip()
    for label in """
copd signs; chilaiditi sign; nsg tube; abnormal foreign body; abscess; adenopathy; air bronchogram; air fluid
level; air trapping; alveolar pattern; aortic aneurysm; aortic atheromatosis; aortic button enlargement; aortic
elongation; aortic endoprosthesis; apical pleural thickening; artificial aortic heart valve; artificial heart
valve; artificial mitral heart valve; asbestosis signs; ascendent aortic elongation; atelectasis; atelectasis
basal; atypical pneumonia; axial hyperostosis; azygoesophageal recess shift; azygos lobe; blastic bone lesion;
bone cement; bone metastasis; breast mass; bronchiectasis; bronchovascular markings; bullas; calcified
adenopathy; calcified densities; calcified fibroadenoma; calcified granuloma; calcified mediastinal adenopathy;
calcified pleural plaques; calcified pleural thickening; callus rib fracture; cardiomegaly; catheter;
cavitation; central vascular redistribution; central venous catheter; central venous catheter via jugular vein;
central venous catheter via subclavian vein; central venous catheter via umbilical vein; cervical rib; chest
drain tube; chronic changes; clavicle fracture; consolidation; costochondral junction hypertrophy; costophrenic
angle blunting; cyst; dai; descendent aortic elongation; dextrocardia; diaphragmatic eventration; double j
stent; dual chamber device; electrical device; emphysema; empyema; end on vessel; endoprosthesis; endotracheal
tube; esophagic dilatation; exclude; external foreign body; fibrotic band; fissure thickening; flattened
diaphragm; fracture; gastrostomy tube; goiter; granuloma; ground glass pattern; gynecomastia; heart
insufficiency; heart valve calcified; hemidiaphragm elevation; hiatal hernia; hilar congestion; hilar
enlargement; humeral fracture; humeral prosthesis; hydropneumothorax; hyperinflated lung; hypoexpansion;
hypoexpansion basal; increased density; infiltrates; interstitial pattern; kerley lines; kyphosis; laminar
atelectasis; lepidic adenocarcinoma; lipomatosis; lobar atelectasis; loculated fissural effusion; loculated
pleural effusion; lung metastasis; lung vascular paucity; lymphangitis carcinomatosa; lytic bone lesion; major
fissure thickening; mammary prosthesis; mass; mastectomy; mediastinal enlargement; mediastinal mass; mediastinal
shift; mediastinic lipomatosis; metal; miliary opacities; minor fissure thickening; multiple nodules;
nephrostomy tube; nipple shadow; nodule; non axial articular degenerative changes; normal; obesity; osteopenia;
osteoporosis; osteosynthesis material; pacemaker; pectum carinatum; pectum excavatum; pericardial effusion;
pleural effusion; pleural mass; pleural plaques; pleural thickening; pneumomediastinum; pneumonia;
pneumoperitoneo; pneumothorax; post radiotherapy changes; prosthesis; pseudonodule; pulmonary artery
enlargement; pulmonary artery hypertension; pulmonary edema; pulmonary fibrosis; pulmonary hypertension;
pulmonary mass; pulmonary venous hypertension; reservoir central venous catheter; respiratory distress;
reticular interstitial pattern; reticulonodular interstitial pattern; rib fracture; right sided aortic arch;
round atelectasis; sclerotic bone lesion; scoliosis; segmental atelectasis; single chamber device; soft tissue
mass; sternoclavicular junction hypertrophy; sternotomy; subacromial space narrowing; subcutaneous emphysema;
suboptimal study; superior mediastinal enlargement; supra aortic elongation; surgery; surgery breast; surgery
heart; surgery humeral; surgery lung; surgery neck; suture material; thoracic cage deformation; total
atelectasis; tracheal shift; tracheostomy tube; tuberculosis; tuberculosis sequelae; unchanged; vascular hilar
enlargement; vascular redistribution; ventriculoperitoneal drain tube; vertebral anterior compression; vertebral
compression; vertebral degenerative changes; vertebral fracture; volume loss
""".replace("\n", " ").split(";")
)


def read_padchest(request: ReadRequest) -> SourceFrame:
    """The label frame of PadChest; raises InputError or FileNotFoundError, naming file, column and line."""
    path, notes = Path(request.labels), []
    table = common.read_columns(path, COLUMNS, text=COLUMNS)
    for name in ("image", "patient"):
        common.refuse_values(table[name].rename(COLUMNS[name][0]), table[name].isna().to_numpy(), path, "a name")
    common.refuse_duplicates(table["image"], path)
    lists = _label_lists(table["labels"].rename("Labels"), path)
    _check_matches(lists, request, notes)
    table, lists, dropped = _usable(table, lists, request)
    if table.empty:
        raise InputError(f"{path}: none of its rows is usable; {dropped['reason'].value_counts().to_dict()}.")
    labels = {slug: _raw(lists, {common.plain(name) for name in names}) for slug, names in request.names.items()}
    if unchanged := sum(map(_is_unchanged, lists)):
        notes.append(f"{unchanged} reports say 'unchanged': what they do not list is unknown.")
    meta = _about(table, request, notes)
    meta["no_finding"] = np.array([float(NORMAL in tokens) for tokens in lists], np.float32)
    frame = common.build_frame(meta, labels)
    return SourceFrame(frame=frame, findings=tuple(labels), dropped=dropped, notes=tuple(notes))


def _label_lists(cells: pd.Series, path: Path) -> list[frozenset[str]]:
    """The labels of every row without stray spaces; an empty cell is an empty list."""
    parsed: dict[str, frozenset[str] | None] = {}
    for cell in cells.dropna().unique():
        try:
            items = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            items = None
        readable = isinstance(items, list) and all(isinstance(item, str) for item in items)
        parsed[cell] = frozenset(common.plain(item) for item in items if item.strip()) if readable else None
    bad = [cell for cell, tokens in parsed.items() if tokens is None]
    common.refuse_values(cells, cells.isin(bad).to_numpy(), path, "a list such as ['normal']")
    parsed_or_empty = {**parsed, None: frozenset()}
    return [parsed_or_empty[None if cell is None or cell != cell else cell] for cell in cells.tolist()]


def _check_matches(lists: list[frozenset[str]], request: ReadRequest, notes: list[str]) -> None:
    """Every finding must be in some list; labels that PadChest does not publish are counted."""
    counts = Counter(token for tokens in lists for token in tokens)
    strange = {token: n for token, n in counts.items() if token not in KNOWN_LABELS}
    if strange:
        most = ", ".join(f"'{token}' ({n})" for token, n in sorted(strange.items(), key=lambda item: -item[1])[:5])
        notes.append(f"{len(strange)} labels are not among PadChest's published ones and were passed over: {most}.")
    for slug, names in request.names.items():
        if any(counts[common.plain(name)] for name in names):
            continue
        if not request.options.get("allow_absent"):
            raise InputError(
                f"{request.labels}: no report has the finding '{slug}', in PadChest called {list(names)}. "
                "Is it the whole file? For a part of it, give the option allow_absent."
            )
        notes.append(f"No report of the file has '{slug}'.")


def _usable(
    table: pd.DataFrame, lists: list[frozenset[str]], request: ReadRequest
) -> tuple[pd.DataFrame, list[frozenset[str]], pd.DataFrame]:
    """The rows that mean something, and those that do not, each with its first reason."""
    wanted = str(request.options.get("labelled_by", "any"))
    if wanted not in LABELLED_BY:
        raise InputError(f"Option labelled_by={wanted!r} is unknown. Allowed: {', '.join(LABELLED_BY)}.")
    method = LABELLED_BY[wanted]
    reasons = {
        "no labels in the label file": np.array([not tokens for tokens in lists]),
        "the report is only 'unchanged'": np.array([tokens == {UNCHANGED} for tokens in lists]),
        **{f"labelled '{name}'": np.array([name in tokens for tokens in lists]) for name in UNUSABLE},
        f"projection {EXCLUDED_PROJECTION}": (table["projection"] == EXCLUDED_PROJECTION).to_numpy(),
    }
    if method is not None:
        reasons[f"not labelled by the {wanted}"] = (table["labelled_by"] != method).to_numpy()
    out, dropped = np.zeros(len(table), bool), []
    for reason, bad in reasons.items():
        dropped.append(common.drop_rows(table["image"], bad & ~out, reason))
        out |= bad
    kept = np.flatnonzero(~out)
    dropped = pd.concat(dropped, ignore_index=True)
    return table.iloc[kept].reset_index(drop=True), [lists[row] for row in kept], dropped


def _raw(lists: list[frozenset[str]], names: set[str]) -> np.ndarray:
    absent = {True: UNKNOWN, False: 0.0}
    return np.array([1.0 if tokens & names else absent[_is_unchanged(tokens)] for tokens in lists], np.float32)


def _is_unchanged(tokens: frozenset[str]) -> bool:
    """Whether the report leaves it to an earlier one what else there is."""
    return UNCHANGED in tokens and NORMAL not in tokens


def _about(table: pd.DataFrame, request: ReadRequest, notes: list[str]) -> dict[str, object]:
    projection = common.mapped_or_noted(
        table["projection"].rename("Projection"), {name: name for name in PROJECTIONS}, notes
    )
    known = {**PROJECTIONS, "": ("", "")}
    year = pd.to_numeric(table["date"].str.slice(0, 4), errors="coerce")
    age = (year - pd.to_numeric(table["birth"], errors="coerce")).rename("PatientBirth")
    physicians = int((table["labelled_by"] == "Physician").sum())
    notes.append(f"{physicians} of {len(table)} images are labelled by physicians, the others by a network.")
    path = table["image"]
    if request.images is not None:
        path = common.locate_files(request.images, path.tolist())
    elif table["folder"].notna().all():
        path = table["folder"] + "/" + path
    return {
        "image_id": table["image"],
        "patient_id": table["patient"],
        "study_id": table["patient"] + "/" + table["study"].fillna(table["image"]),
        "view": [known[name][0] for name in projection],
        "projection": [known[name][1] for name in projection],
        "age": common.years(age, notes),
        "sex": common.mapped_or_noted(table["sex"].rename("PatientSex_DICOM"), {"M": "M", "F": "F"}, notes),
        "path": path,
        "source": "padchest",
    }
