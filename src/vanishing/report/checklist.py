r"""A filled checklist of reproducibility, as an appendix of the report.

The questions are those of NeurIPS' paper checklist and of the ML code completeness checklist, in our own
words. Every answer names where it can be held against: a section, a command or a number. The numbers come
from the parameters and the summaries alone, so that a clone that typesets `results/` gets the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vanishing import config
from vanishing.data.cifar100 import CIFAR100
from vanishing.report.latex import escape, number
from vanishing.results import store

Item = tuple[str, str, str]
"""A question, the answer in a word, and what it rests on, in LaTeX."""


@dataclass(frozen=True)
class Facts:
    """The numbers that answers name."""

    settings: config.Parameters
    summaries: list[dict[str, Any]]

    @property
    def planned(self) -> int:
        """Trainings that the parameters ask for."""
        return len(list(self.settings.jobs()))

    @property
    def seeds(self) -> int:
        """Seeds of the run that was trained with most."""
        return max(Counter(summary["run"] for summary in self.summaries).values(), default=0)

    @property
    def diverged(self) -> int:
        """Trainings that ended with a loss that is no number."""
        return sum(summary["status"] == "diverged" for summary in self.summaries)

    @property
    def epochs(self) -> int:
        """Epochs of all trainings."""
        return sum(summary["epochs"] for summary in self.summaries)

    def environments(self, *keys: str) -> str:
        """Name what trainings ran on, each once, in LaTeX."""
        found = {" ".join(str(summary["environment"].get(key, "?")) for key in keys) for summary in self.summaries}
        return escape(", ".join(sorted(found)) or "no training yet")


def latex(settings: config.Parameters) -> str:
    """Return the appendix."""
    facts = Facts(settings, [summary for _, summary in store.trainings(settings)])
    lines = [
        r"\section{Reproducibility checklist}",
        r"\label{sec:checklist}",
        "The questions are those of the NeurIPS paper checklist and of the ML code completeness checklist, in other",
        r"words. Commands are typed in the project's folder; \texttt{vanishing manifest} prints versions and hashes.",
    ]
    for title, items in (("The paper", [*_paper(facts), *_conduct()]), ("The code", _code(facts))):
        lines += [rf"\subsection*{{{title}}}", r"\begin{enumerate}", r"  \setlength{\itemsep}{0pt}"]
        lines += [rf"  \item \emph{{{question}}} \textbf{{{answer}.}} {reason}" for question, answer, reason in items]
        lines += [r"\end{enumerate}"]
    return "\n".join([*lines, ""])


def _paper(facts: Facts) -> Iterator[Item]:
    """Yield the questions of NeurIPS' checklist."""
    settings, seeds, done = facts.settings, facts.seeds, len(facts.summaries)
    yield (
        "Do abstract and introduction claim no more than is shown?", "Yes",
        r"Their numbers are those of Section~\ref{sec:results}, read from the same generated file; a name without a "
        "number stops the typesetting.",
    )  # fmt: skip
    yield "Are limits discussed?", "Yes", r"Section~\ref{sec:limits}."
    yield (
        "Does each derivation state its assumptions?", "Yes",
        r"Section~\ref{sec:theory}, step by step; it holds at initialisation, and says so.",
    )  # fmt: skip
    yield (
        "Can the main results be reproduced from what is written?", "Yes",
        rf"Section~\ref{{sec:setup}} and \texttt{{params.yaml}}; \texttt{{make study}} makes them, "
        r"\texttt{vanishing verify -{}-all} compares them with their records. "
        f"{done} of {facts.planned} trainings are in these results.",
    )  # fmt: skip
    yield _data(settings)
    yield (
        "Are all settings given, and how they were chosen?", "Yes",
        rf"Section~\ref{{sec:setup}}; every summary in \texttt{{results/}} holds the effective configuration. "
        rf"{len(settings.runs)} runs, {settings.train.epochs} epochs unless a run says otherwise; the test set chose "
        "nothing.",
    )  # fmt: skip
    yield (
        "Is there a measure of statistical uncertainty?", "Yes" if seeds > 1 else "No",
        f"Up to {seeds} seeds; mean and standard deviation ($n - 1$) with $n$ in every table, and differences by seed "
        r"with a 95\,\% interval; with one seed none is given." if seeds > 1
        else r"No run has results of two seeds, so no spread is given; \texttt{seeds} in \texttt{params.yaml} names "
        "those to train.",
    )  # fmt: skip
    yield (
        "Are trainings that failed reported?", "Yes",
        f"{facts.diverged} diverged; each stands in its table with the epoch.",
    )  # fmt: skip
    yield (
        "Is the computing described?", "Yes",
        rf"Trained on {facts.environments('device', 'kind')}, {number(facts.epochs, 0)} epochs in all; time and memory "
        r"of each job in \texttt{logs/benchmarks/}, which no result depends on; rates in \texttt{docs/performance.md}.",
    )  # fmt: skip


def _conduct() -> Iterator[Item]:
    """Yield the questions of NeurIPS' checklist that are not about results."""
    yield (
        "Does the work keep to the code of ethics?",
        "Yes",
        "Small classifiers; of the images of people none is named.",
    )
    yield (
        "Are wider consequences discussed?",
        "Not applicable",
        "It explains known results, and releases no new ability.",
    )
    yield "Are safeguards needed for a release?", "Not applicable", "Networks of this size and task need none."
    yield (
        "Are the assets of others credited, and their terms respected?", "Yes",
        "Data, methods and programs are cited; CIFAR-100's page asks for the citation. The images are not passed on.",
    )  # fmt: skip
    yield (
        "Are new assets documented?", "Yes",
        r"\texttt{README.md} has the map of files, \texttt{vanishing models} lists every network with its size.",
    )  # fmt: skip
    yield "Were people asked or paid?", "Not applicable", "Nobody took part."
    yield "Did a board review risks for people?", "Not applicable", "Nobody took part."
    yield "Are language models part of the method?", "Not applicable", "All networks here are convolutional."


def _data(settings: config.Parameters) -> Item:
    """Answer for the access to data."""
    question = "Are data and code open?"
    if settings.data.set == "generated":
        return question, "Yes", r"The images are generated from a seed by \texttt{vanishing data}."
    digest = CIFAR100.train[:16]
    known = rf"known by the SHA-256 of its sorted images, \texttt{{{digest}}}\ldots{{}} for training"
    return question, "Yes", rf"CIFAR-100 is public; \texttt{{vanishing data}} fetches it from any source, {known}."


def _code(facts: Facts) -> Iterator[Item]:
    """Yield the questions of the ML code completeness checklist."""
    settings = facts.settings
    yield (
        "Are dependencies given?", "Yes",
        rf"\texttt{{requirements.lock}} pins each by version and hash, \texttt{{make setup}} installs them. Trained "
        rf"with PyTorch {facts.environments('torch')}.",
    )  # fmt: skip
    yield (
        "Is there code for training?",
        "Yes",
        r"\texttt{vanishing train RUN -{}-seed S}, or \texttt{make study} for all.",
    )
    yield (
        "Is there code for evaluation?", "Yes",
        r"The training ends with it; \texttt{vanishing verify -{}-all} tests every best checkpoint again.",
    )  # fmt: skip
    kept = len(settings.train.snapshot_epochs)
    yield (
        "Are trained models given?", "Yes",
        rf"The weights of {kept} epochs and of the best one, for every run, as \texttt{{dvc pull}} brings them where "
        "the study was pushed.",
    )  # fmt: skip
    yield (
        "Does a README give results and the exact commands?", "Yes",
        r"\texttt{README.md}; \texttt{vanishing show} prints the tables.",
    )  # fmt: skip
    yield (
        "Does the same command give the same numbers?", "Yes",
        rf"Byte for byte in the same environment: deterministic algorithms, {facts.environments('threads')} CPU "
        rf"threads, {facts.environments('precision')}. On another machine \texttt{{vanishing verify}} allows "
        "0.2 points of test accuracy.",
    )  # fmt: skip
