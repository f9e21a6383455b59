// SPDX-License-Identifier: Apache-2.0
//! The few statistics that the benches use.

use super::Figure;

/// The value below which this part of the samples lies. Samples need not be sorted.
pub fn percentile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = (last as f64 * part).round() as usize;
    sorted[at.min(last)]
}

/// The median with the 10th and 90th percentile beside it.
pub fn median(
    metric: impl Into<String>,
    unit: &'static str,
    samples: &[f64],
    note: impl Into<String>,
) -> Figure {
    Figure {
        metric: metric.into(),
        value: percentile(samples, 0.5),
        unit,
        low: percentile(samples, 0.1),
        high: percentile(samples, 0.9),
        note: note.into(),
    }
}

/// A percentile that was measured in several rounds: the middle one of the rounds' percentiles, with the least and the
/// most of them beside it. A percentile of one round has no spread of its own.
pub fn of_rounds(
    metric: impl Into<String>,
    unit: &'static str,
    rounds: &[Vec<f64>],
    part: f64,
    note: impl Into<String>,
) -> Figure {
    let each: Vec<f64> = rounds.iter().map(|round| percentile(round, part)).collect();
    Figure {
        metric: metric.into(),
        value: percentile(&each, 0.5),
        unit,
        low: percentile(&each, 0.0),
        high: percentile(&each, 1.0),
        note: note.into(),
    }
}

/// The ratio of each pair that was measured side by side.
pub fn ratios(samples: &[f64], base: &[f64]) -> Vec<f64> {
    samples
        .iter()
        .zip(base)
        .map(|(sample, base)| sample / base)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(percentile(&samples, 0.5), 3.0);
        assert_eq!(
            (percentile(&samples, 0.0), percentile(&samples, 1.0)),
            (1.0, 5.0)
        );
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_high_percentile_lies_between_its_own_ends() {
        let rounds = [
            vec![1.0, 1.0, 9.0],
            vec![1.0, 2.0, 5.0],
            vec![1.0, 1.0, 7.0],
        ];
        let p99 = of_rounds("x", "ms", &rounds, 0.99, "");
        assert_eq!((p99.low, p99.value, p99.high), (5.0, 7.0, 9.0));
        let p50 = of_rounds("x", "ms", &rounds, 0.5, "");
        assert_eq!((p50.low, p50.value, p50.high), (1.0, 1.0, 2.0));
    }

    #[test]
    fn a_ratio_is_of_its_own_pair() {
        // The machine became twice as slow half-way; the ratio does not care.
        assert_eq!(ratios(&[2.0, 4.0], &[1.0, 2.0]), [2.0, 2.0]);
        let figure = median(
            "x",
            "ratio",
            &ratios(&[2.0, 4.0, 3.0], &[1.0, 2.0, 1.0]),
            "",
        );
        assert_eq!((figure.value, figure.high), (2.0, 3.0));
    }
}
