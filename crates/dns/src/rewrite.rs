//! Names that stand for others, as `rewrite` of a Corefile has them.

use crate::wire::{Name, Wire};

/// Names, and what is asked for in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// It holds for names below these.
    pub zones: Vec<Name>,
    /// What stands for something else.
    pub from: Pattern,
    /// What it stands for: a name, or its end.
    pub to: Name,
}

/// Which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exact(Name),
    /// All below it; what is before it stays.
    Suffix(Name),
}

impl Rewrite {
    /// What a name stands for.
    pub(crate) fn target(&self, name: &Name) -> Option<Wire> {
        self.zones.iter().find(|zone| name.below(zone).is_some())?;
        let kept = match &self.from {
            Pattern::Exact(from) => (name == from).then_some(0)?,
            Pattern::Suffix(from) => name.below(from).filter(|labels| *labels > 0)?,
        };
        let mut target = Wire::new();
        // One that would be too long is none.
        target.try_extend_from_slice(name.part(0, kept)).ok()?;
        target.try_extend_from_slice(self.to.bytes()).ok()?;
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_others() {
        let name = |text: &str| Name::parse(text).unwrap();
        let exact = Rewrite {
            zones: vec![Name::root()],
            from: Pattern::Exact(name("shop.example")),
            to: name("web.default.svc.cluster.local"),
        };
        let suffix = Rewrite {
            zones: vec![name("example")],
            from: Pattern::Suffix(name("in.example")),
            to: name("default.svc.cluster.local"),
        };
        let target = |rule: &Rewrite, text: &str| {
            let target = rule.target(&name(text))?;
            Some(Name::read(&target, 0).unwrap().0.to_string())
        };
        let web = || Some("web.default.svc.cluster.local.".to_owned());
        assert_eq!(target(&exact, "Shop.example"), web());
        assert_eq!(target(&exact, "a.shop.example"), None);
        assert_eq!(target(&suffix, "web.in.example"), web());
        assert_eq!(target(&suffix, "in.example"), None);
        assert_eq!(target(&suffix, "web.example"), None);
        let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(45)].join(".")
            + ".in.example";
        assert_eq!(target(&suffix, &long), None);
    }
}
