//! Medians, quantiles and spread of what was measured.

use serde::{Deserialize, Serialize};

/// What several runs of the same thing have shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The least.
    pub(crate) min: f64,
    /// The middle one.
    pub(crate) median: f64,
    /// The most.
    pub(crate) max: f64,
    /// How many.
    pub(crate) runs: usize,
}

impl Spread {
    /// Of these values; all zero if there are none.
    pub(crate) fn of(values: &[f64]) -> Self {
        Self {
            min: quantile(values, 0.0),
            median: quantile(values, 0.5),
            max: quantile(values, 1.0),
            runs: values.len(),
        }
    }
}

/// The value below which the share `q` (0 to 1) of the values lies, between neighbours by their
/// distance; 0 if there are none.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_spread_has_the_middle_run() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.min, spread.median, spread.max, spread.runs), (1.0, 2.0, 3.0, 3));
    }
}
