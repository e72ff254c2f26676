"""(mu, beta)-niceness of every cell (Yang et al. 2021, appendix A.3, Definition 4). Pure: tables
in, tables out.
"""

import numpy as np
import pandas as pd

from phasegrid.analysis.phases.phase_map import PhaseMap
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables


def niceness(grid: SweepTables, phases: PhaseMap) -> pd.DataFrame:
    """Return one row per cell, in the order of `phases`: cell, mu, mu_stderr, beta, beta_stderr,
    globally_nice and globally_nice_rule.

    mu is the similarity level, the mean CKA over pairs of trained models; beta is the connectivity
    level, the mean mode connectivity over pairs, of the quantity that the phases use. Both are
    estimates over the seeds of the cell, with jackknife standard errors (null if there is only one
    pair).

    The paper calls a landscape globally nice if mu is close to 1 and beta "larger than 0"; in its
    appendix A.2, if beta is close to 0, because a large positive beta means that the ends are not
    trained. It gives no numbers. Here, mu must be above the CKA threshold and |beta| within the
    tolerance of mode connectivity; both are those of the phases. A CKA threshold found from the
    data is relative to the sweep: nice then means among the more similar cells of this diagram.
    Null if a number or a threshold is missing. The claim is only about these two levels: a cell can
    be globally nice and sharp.
    """
    connectivity = phases.rules.connectivity_quantity
    table = aggregate(grid, ["cka", connectivity])
    levels = {
        name: table[table["quantity"] == name].set_index("cell").reindex(phases.table["cell"])
        for name in ("cka", connectivity)
    }
    mu, beta = (levels[name]["value"].to_numpy(dtype=float) for name in ("cka", connectivity))
    similar, tolerance = phases.threshold("cka"), phases.threshold(connectivity)
    known = ~np.isnan(mu) & ~np.isnan(beta) & ~np.isnan(similar) & ~np.isnan(tolerance)
    nice = pd.Series((mu > similar) & (np.abs(beta) <= tolerance), dtype=object)
    return pd.DataFrame(
        {
            "cell": phases.table["cell"].to_numpy(),
            "mu": mu,
            "mu_stderr": levels["cka"]["stderr"].to_numpy(dtype=float),
            "beta": beta,
            "beta_stderr": levels[connectivity]["stderr"].to_numpy(dtype=float),
            "globally_nice": nice.where(known, None),
            "globally_nice_rule": (
                f"mu > {similar:.4g} and |beta| <= {tolerance:.4g} ({connectivity})"
            ),
        }
    )
