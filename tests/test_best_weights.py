"""The selection of the best weights during training."""

from types import SimpleNamespace

from throughtime.training.callbacks import BestWeights


def test_the_lower_loss_breaks_ties_of_the_monitored_metric():
    kept = []
    best = BestWeights(kept.append)
    task = SimpleNamespace(monitor="accuracy", maximize=True)
    for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.9, 0.5), (0.9, 0.6), (0.9, 0.4), (0.8, 0.1)]):
        figures = {"accuracy": accuracy, "loss": loss}
        best.on_validation(
            SimpleNamespace(
                task=task, figures=figures, step=step, evaluated=step, fabric=SimpleNamespace(is_global_zero=True)
            )
        )
    assert kept == [0, 1, 3]
    assert (best.best, best.loss, best.step) == (0.9, 0.4, 3)
    again = BestWeights()
    again.load_state_dict(best.state_dict())
    assert (again.best, again.loss, again.step) == (0.9, 0.4, 3)
