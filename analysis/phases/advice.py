"""Say what limits a cell, and so what to change: the guidance of Yang et al. 2021 as a table of
rules. Pure.
"""

from collections.abc import Hashable, Mapping

import pandas as pd

from phasegrid.analysis.phases.phase_map import PhaseMap

CONVERGENCE = "lack of convergence"
TEMPERATURE = "temperature"
MODEL = "model size"
DATA = "data quality or size (lack of signal)"
NOTHING = "none of these"

BARRIER = (
    "trained models are joined over a barrier (mode connectivity below -tolerance): a larger model"
    " connects them; more exploration, not training on to zero loss, helps meanwhile (sections 3.3"
    " and 5, appendix D.3)"
)
RULES: dict[str, tuple[str, str]] = {
    "not converged": (
        CONVERGENCE,
        "training diverged, learned nothing or did not converge: lower the temperature or train"
        " longer (appendix D.4)",
    ),
    "barrier, noise is the load": (
        DATA,
        "barrier (mode connectivity below -tolerance) on corrupted labels: better data connects"
        " (section 3.3, Fig. 8; section 5)",
    ),
    "barrier": (MODEL, BARRIER),
    "ends above the curve": (
        TEMPERATURE,
        "mode connectivity above the tolerance: training did not reach the bottom of a minimum;"
        " lower the temperature "
        "(sections 2 and 5)",
    ),
    "sharp, loss high": (
        TEMPERATURE,
        "no barrier, but training loss and Hessian are large: a lower temperature crosses into"
        " phase IV (section 3.1)",
    ),
    "sharp, loss low": (
        CONVERGENCE,
        "no barrier and a small training loss, but a large Hessian: not at the bottom of a"
        " minimum (section 5); very large "
        "batches sharpen too (appendix D.7.1)",
    ),
    "dissimilar": (
        DATA,
        "flat and connected, but small CKA: the data lack signal; more or better data make"
        " models similar, and in phase IV a "
        "wider model or a higher temperature does too (sections 3.3 and 5)",
    ),
    "nice": (
        NOTHING,
        "flat, connected and similar: where the best accuracy is found (sections 3.1 and 5)",
    ),
}


def limits(
    cells: pd.DataFrame,
    phases: PhaseMap,
    train_loss: "pd.Series[float]",
    load_path: str | None = None,
) -> pd.DataFrame:
    """Return one row per cell with `limited_by` and `advice_rule`, the text of the rule behind it;
    both are null if the cell has no phase, or is flat and connected in a sweep without CKA.

    `cells` are the rows of a phase table with ``beta``, `train_loss` the mean training loss of the
    same cells above its floor. The first rule that holds decides; sections are those of
    Yang et al. 2021:

    1. NC, or not trained: lack of convergence (D.4: hot and large networks are hard to converge).
    2. I or III, and label noise (above 0) is the load: data (3.3, Fig. 8c; 5: "better data quality
       improves connectivity").
    3. I or III (mc < -tolerance): model size (3.3: "larger models can increase connectivity"; 5;
       D.3).
    4. II, mc > tolerance: temperature (2, after eq. 4; 5: "a large positive mode connectivity ..
       fails to converge").
    5. II, training loss above its threshold: temperature (3.1: the loss falls tenfold from the hot
       side to the cold side).
    6. II by the Hessian alone: lack of convergence (5: "a large Hessian .. fails to converge to the
       bottom"; D.7.1).
    7. IV-A (small CKA): data (3.3: "increasing data boosts signal"; 5: "lack of signal").
    8. IV-B: none of these (3.1).
    =================================

    In section 5 the paper writes that a "large" CKA indicates lack of signal; but its sections 3.3
    and 5 ("more data improves similarity") say that a small one does, and rule 7 follows these. The
    rules use the nearest phase of a cell, whatever its confidence; they are guidance from the
    paper's experiments, not a measurement.
    """
    tolerance = phases.threshold(phases.rules.connectivity_quantity)
    high_loss = train_loss.to_numpy(dtype=float) > phases.threshold("train_loss")
    fired = [
        _rule(row, high, tolerance, load_path)
        for row, high in zip(cells.to_dict("records"), high_loss, strict=True)
    ]
    return pd.DataFrame(
        {
            "limited_by": [RULES[name][0] if name else None for name in fired],
            "advice_rule": [RULES[name][1] if name else None for name in fired],
        },
        index=cells.index,
        dtype=object,
    )


def _rule(
    row: Mapping[Hashable, object], high_loss: bool, tolerance: float, load_path: str | None
) -> str | None:
    phase = row["nearest"]
    if phase in ("NC", "not trained"):
        return "not converged"
    if phase in ("I", "III"):
        noisy = load_path == "dataset.label_noise" and float(str(row["load"])) > 0
        return "barrier, noise is the load" if noisy else "barrier"
    if phase == "II":
        if float(str(row["beta"])) > tolerance:
            return "ends above the curve"
        return "sharp, loss high" if high_loss else "sharp, loss low"
    return {"IV-A": "dissimilar", "IV-B": "nice"}.get(str(phase))
