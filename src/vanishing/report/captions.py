"""The figures of each family, and what their captions say."""

CAPTIONS: dict[str, dict[str, str]] = {
    "training": {
        "loss": "Training and validation loss. Lines are means over the seeds, bands their standard deviation; "
        "the dotted line is chance. The axis ends at one and a half times the loss of a uniform guess; what is "
        "larger leaves the panel.",
        "accuracy": "Training and validation accuracy. Lines are means over the seeds, bands their standard deviation; "
        "the dotted line is chance.",
        "loss_by_run": "The same losses, a panel a run: training solid, validation dashed. All panels share their "
        "axes; lines, bands and the dotted line are those of the figures above.",
        "accuracy_by_run": "The same accuracies, a panel a run: training solid, validation dashed.",
        "comparison": "The runs side by side, at the last epoch. Each mark is a seed.",
    },
    "gradient_flow": {
        "gradient_flow_log": "Mean absolute gradient of each weight layer at every snapshot, logarithmic axis. "
        "Layer 1 is the entry convolution, the last is the classifier; gradients that are exactly 0 are left out.",
        "gradient_flow_linear": "Mean absolute gradient of each weight layer at every snapshot, linear axis.",
        "gradient_flow_reported": "The same as the reports measured it: on augmented images, and with the scales of "
        "normalisation, marked by circles, among the layers. Places count from 0.",
        "gradient_heat_map": "Mean absolute gradient over layers and snapshots; white where it is exactly 0.",
    },
}
"""Every figure of each family, by file name, with what its caption says."""

PRINTED = {"training": "accuracy", "gradient_flow": "gradient_flow_log"}
"""The figure of a family that the report prints; `report.html` and `report/figures/` have all."""
