"""What all pictures share: colours, style, and how a figure becomes a file.

In: a figure. Out: a PNG file, whole or absent, the same bytes for the same figure. Called by whatever draws. matplotlib
is imported inside the functions and draws without a display.
"""

from pathlib import Path

from models.files.layout import publishing

# Okabe and Ito (2008): told apart by every kind of colour vision; line styles tell them apart in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"
STYLE = {"font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
STYLE |= {"grid.color": "#E3E3E3", "legend.frameon": False, "legend.fontsize": 9, "axes.axisbelow": True}


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure, path: Path) -> Path:
    path = Path(path)
    try:
        with publishing(path) as temporary:
            figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})
    finally:
        pyplot().close(figure)
    return path
