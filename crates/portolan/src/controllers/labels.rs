//! Does an object match a selector? Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object, or a selector of equalities.
pub(super) type Labels = BTreeMap<String, String>;

/// Whether `labels` hold every pair of `selector`. An empty selector selects nothing here: that is
/// how Services read it.
pub(super) fn selects(selector: Option<&Labels>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    let value = |key: &String| labels.and_then(|labels| labels.get(key));
    selector.iter().all(|(key, wanted)| value(key) == Some(wanted))
}

/// Whether `labels` match a workload's selector, expressions included. An unknown operator matches
/// nothing, so that no pod is taken or deleted on a misunderstanding.
pub(super) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    let expressions = selector.match_expressions.iter().flatten().all(|requirement| {
        let found = value(&requirement.key);
        let listed = || {
            let values = requirement.values.as_deref().unwrap_or_default();
            found.is_some_and(|found| values.contains(found))
        };
        match requirement.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    });
    let empty = selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.iter().flatten().next().is_none();
    !empty && equal && expressions
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn a_service_selector_needs_every_pair_and_at_least_one() {
        let pod = labels(&[("app", "web"), ("tier", "front")]);
        assert!(selects(Some(&labels(&[("app", "web")])), Some(&pod)));
        assert!(!selects(Some(&labels(&[("app", "db")])), Some(&pod)));
        assert!(!selects(Some(&labels(&[("app", "web"), ("x", "y")])), Some(&pod)));
        assert!(!selects(Some(&labels(&[])), Some(&pod)));
        assert!(!selects(None, Some(&pod)));
    }

    #[test]
    fn expressions() {
        let pod = labels(&[("app", "web")]);
        let table = [
            ("app", "In", &["web", "db"][..], true),
            ("app", "In", &["db"], false),
            ("app", "NotIn", &["web"], false),
            ("tier", "NotIn", &["front"], true),
            ("app", "Exists", &[], true),
            ("tier", "DoesNotExist", &[], true),
            ("app", "Resembles", &["web"], false),
        ];
        for (key, operator, values, expected) in table {
            let requirement = LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).into()).collect()),
            };
            let selector = LabelSelector {
                match_expressions: Some(vec![requirement]),
                ..LabelSelector::default()
            };
            assert_eq!(matches(&selector, Some(&pod)), expected, "{key} {operator}");
        }
        assert!(!matches(&LabelSelector::default(), Some(&pod)));
    }
}
