"""The error of the baseline predictor against a plain last-value forecast, on real data that PyPI packages ship.

    pip install 'iot-edge-bridge[bench]'
    python -m bench.predictor --plot docs/img/predictor.png

Each value is predicted from the ones before it, one step ahead, by the code that the consumer runs. Data: hourly
temperatures of San Francisco (vega_datasets; averages over many years), daily ones of Seattle from 2012 to 2015
(vega_datasets), weekly CO2 at Mauna Loa from 1958 to 2001 (statsmodels).
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bridge.consumers.predictor import Baseline
from bridge.settings.consumers import MlSettings

YEAR_S = 365.2425 * 86_400
WARM = 0.25
"""Share of each series that is not scored: both forecasts have learned by then."""


class Series(NamedTuple):
    name: str
    unit: str
    settings: MlSettings
    points: list[tuple[int, float]]  # microseconds since the epoch, value


class Result(NamedTuple):
    series: Series
    scored: list[tuple[int, float, float, float]]  # time, value, predicted, last

    def errors(self, column: int) -> tuple[float, float]:
        """Mean absolute and root mean squared."""
        off = [row[column] - row[1] for row in self.scored]
        return sum(map(abs, off)) / len(off), math.sqrt(sum(each * each for each in off) / len(off))


def main() -> None:
    """Print a table, and draw."""
    parser = argparse.ArgumentParser(description="The baseline predictor against the last value.")
    parser.add_argument("--plot", type=Path, help="Where to draw it (PNG).")
    plot = parser.parse_args().plot
    results = [evaluate(series) for series in (normals(), weather(), carbon_dioxide())]
    print(
        f"{'series':34} {'values':>7} {'MAE last':>9} {'MAE ours':>9} {'RMSE last':>10} {'RMSE ours':>10} {'ratio':>6}"
    )
    for result in results:
        (mae, rmse), (mae_last, rmse_last) = result.errors(2), result.errors(3)
        name, count = result.series.name, len(result.scored)
        figures = f"{mae_last:9.3f} {mae:9.3f} {rmse_last:10.3f} {rmse:10.3f} {rmse / rmse_last:6.2f}"
        print(f"{name:34} {count:7} {figures}")
    print(f"{cost_us():.1f} µs a reading")
    if plot:
        draw(results, plot)


def evaluate(series: Series) -> Result:
    """Predict each value from the ones before it."""
    predictor = Baseline(series.settings)
    scored = []
    last = series.points[0][1]
    for place, (ts_us, value) in enumerate(series.points):
        predicted = predictor.predict(1, ts_us)
        if predicted is not None and place > WARM * len(series.points):
            scored.append((ts_us, value, predicted.value, last))
        predictor.observe(1, value, ts_us, learn=True)
        last = value
    return Result(series, scored)


def normals() -> Series:
    """Hourly, with a day as the season. Averages over many years: smooth, as indoor sensors are."""
    rows = _rows("vega_datasets", "_data/sf-temps.csv")
    points = [(_us(row["date"], "%Y/%m/%d %H:%M:%S"), float(row["temp"])) for row in rows]
    return Series("San Francisco, hourly temperature", "°F", MlSettings(), points)


def weather() -> Series:
    """Daily, with a year as the season: mostly chance."""
    rows = _rows("vega_datasets", "_data/seattle-weather.csv")
    points = [(_us(row["date"], "%Y/%m/%d"), float(row["temp_max"])) for row in rows]
    return Series("Seattle, daily maximum temperature", "°C", MlSettings(season_s=YEAR_S, season_parts=26), points)


def carbon_dioxide() -> Series:
    """Weekly, with a year as the season."""
    rows = _rows("statsmodels", "datasets/co2/co2.csv")
    points = [(_us(row["date"], "%Y%m%d"), float(row["co2"])) for row in rows if row["co2"]]
    settings = MlSettings(season_s=YEAR_S, season_parts=26)
    return Series("Mauna Loa, weekly CO2", "ppm", settings, points)


def cost_us(sensors: int = 10_000, rounds: int = 10) -> float:
    """Microseconds a reading, for very many sensors."""
    predictor = Baseline(MlSettings())
    started_s = time.perf_counter()
    for number in range(rounds):
        for sensor in range(sensors):
            predictor.observe(sensor, 20.0 + (sensor * number) % 7, number * 10_000_000, learn=True)
    return (time.perf_counter() - started_s) / sensors / rounds * 1e6


def draw(results: Sequence[Result], path: Path) -> None:
    """Values, predictions, and the errors of both forecasts, over the last stretch of each series."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(results), figsize=(17, 6), height_ratios=(2, 1), sharex="col")
    for column, result in enumerate(results):
        rows = result.scored[-120:]
        times = [datetime.fromtimestamp(row[0] / 1e6, UTC) for row in rows]
        top, bottom = axes[0][column], axes[1][column]
        top.plot(times, [row[1] for row in rows], "k.", markersize=4, label="measured")
        top.plot(times, [row[2] for row in rows], color="tab:blue", linewidth=1.2, label="predicted, one step ahead")
        top.set_title(result.series.name)
        top.set_ylabel(result.series.unit)
        top.legend(loc="upper left", fontsize=8)
        for place, color, label in ((3, "tab:orange", "last value"), (2, "tab:blue", "baseline")):
            rmse = result.errors(place)[1]
            bottom.plot(times, [abs(row[place] - row[1]) for row in rows], color=color, linewidth=1)
            bottom.plot([], [], color=color, label=f"{label}: RMSE {rmse:.2f}")
        bottom.set_ylabel("error")
        bottom.legend(loc="upper left", fontsize=8)
    figure.autofmt_xdate()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _rows(package: str, file: str) -> Iterator[dict[str, str]]:
    """A CSV file of an installed package, which is not imported: that would take pandas."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install 'iot-edge-bridge[bench]'")
    with (Path(spec.submodule_search_locations[0]) / file).open(newline="") as lines:
        yield from csv.DictReader(lines)


def _us(text: str, form: str) -> int:
    return round(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1_000_000)


if __name__ == "__main__":
    main()
