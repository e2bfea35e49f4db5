//! Portolan's data planes beside each other.
//!
//! IPVS is in few kernels that this runs under, so where it was not measured in the run itself, its figures
//! are taken from those of nftables, by the ratio of both in an imitated machine.

use crate::control::Control;
use crate::path::{Path, Way};
use crate::results::Results;

/// The data plane that the others are compared with, by its name in results.
pub(crate) const NFTABLES: &str = "portolan";
pub(crate) const EBPF: &str = "portolan-ebpf";
/// IPVS, by its name in results.
pub(crate) const IPVS: &str = "portolan-ipvs";
/// All of them, by their names in results and in text.
pub(crate) const ALL: [(&str, &str); 5] = [
    (NFTABLES, "nftables"),
    ("portolan-iptables-nft", "iptables-nft"),
    ("portolan-iptables-legacy", "iptables-legacy"),
    (IPVS, "ipvs"),
    ("portolan-ebpf", "ebpf"),
];
/// Numbers of Services that all of them are measured with.
pub(crate) const SERVICES: [u32; 2] = [1_000, 10_000];

/// A figure of a data plane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// It.
    pub(crate) value: f64,
    /// It is that of nftables times a ratio from another run.
    pub(crate) is_estimated: bool,
}

/// A run, and perhaps one in an imitated machine that has IPVS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'r> {
    /// The run.
    pub(crate) here: &'r Results,
    /// The other one.
    pub(crate) imitated: Option<&'r Results>,
}

impl Runs<'_> {
    /// What programming costs a data plane.
    pub(crate) fn control(
        &self,
        proxy: &str,
        services: u32,
        of: fn(&Control) -> f64,
    ) -> Option<Figure> {
        self.figure(proxy, |results, proxy| results.control(proxy, services).map(of))
    }

    /// What a connection costs under the rules of a data plane.
    pub(crate) fn path(
        &self,
        proxy: &str,
        services: u32,
        way: Way,
        of: fn(&Path) -> f64,
    ) -> Option<Figure> {
        self.figure(proxy, |results, proxy| results.path(proxy, services, way).map(of))
    }

    fn figure(&self, proxy: &str, of: impl Fn(&Results, &str) -> Option<f64>) -> Option<Figure> {
        if let Some(value) = of(self.here, proxy) {
            return Some(Figure { value, is_estimated: false });
        }
        let there = self.imitated.filter(|_| proxy == IPVS)?;
        let ratio = of(there, IPVS)? / of(there, NFTABLES).filter(|base| *base > 0.0)?;
        Some(Figure { value: of(self.here, NFTABLES)? * ratio, is_estimated: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::About;

    fn results(changes: &[(&str, f64)]) -> Results {
        let control = changes.iter().map(|(proxy, start_seconds)| Control {
            proxy: (*proxy).to_owned(),
            services: 10_000,
            start_seconds: *start_seconds,
            ..Control::default()
        });
        Results::new(About::default(), control.collect(), Vec::new())
    }

    #[test]
    fn what_was_measured_goes_before_what_a_ratio_says() {
        let start = |here: &Results, imitated| {
            Runs { here, imitated }.control(IPVS, 10_000, |control| control.start_seconds)
        };
        let there = results(&[(NFTABLES, 10.0), (IPVS, 15.0)]);
        let here = results(&[(NFTABLES, 2.0)]);
        let estimated = Some(Figure { value: 3.0, is_estimated: true });
        assert_eq!(start(&here, Some(&there)), estimated);
        assert_eq!(start(&here, None), None);
        assert_eq!(start(&results(&[]), Some(&there)), None);
        let both = results(&[(NFTABLES, 2.0), (IPVS, 4.0)]);
        let measured = Some(Figure { value: 4.0, is_estimated: false });
        assert_eq!(start(&both, Some(&there)), measured);
    }
}
