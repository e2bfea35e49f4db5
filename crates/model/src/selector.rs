//! Label selectors as text, such as `tier in (front, back),app=web,!canary`: the one place that decides how they are
//! read. What has labels, and who asks, is nothing of this.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::spelling::{label_value, qualified_name};

/// What is accepted, for messages.
const FORMS: &str = "key, !key, key=value, key!=value, key in (a,b), key notin (a,b), and several of them with commas";

/// What the labels of an object have to be, as lists and watches of the API have it. Each requirement has to be met;
/// there may be none.
///
/// It is written as it can be read again, the shortest form of each requirement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// What the label of one key has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    In(BTreeSet<Box<str>>),
    /// An object without the label meets it, too.
    NotIn(BTreeSet<Box<str>>),
    Exists,
    Missing,
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSelector {
    /// A requirement of none of the forms.
    #[error("unable to parse requirement: '{0}': accepted are {FORMS}")]
    Form(String),
    /// No label has such a key.
    #[error("unable to parse requirement: '{requirement}': key '{key}': {rule}")]
    Key {
        /// What it is required in.
        requirement: String,
        /// The key.
        key: String,
        /// What would be accepted.
        rule: String,
    },
    /// No label has such a value.
    #[error("unable to parse requirement: '{requirement}': value '{value}': {rule}")]
    Value {
        /// What it is required in.
        requirement: String,
        /// The value.
        value: String,
        /// What would be accepted.
        rule: String,
    },
}

impl LabelSelector {
    /// Whether it selects all objects, whatever their labels are.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects an object, of which `label` answers the value of a key.
    pub fn selects<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|Requirement { key, rule }| match (rule, label(key)) {
            (Rule::In(values), value) => value.is_some_and(|value| values.contains(value)),
            (Rule::NotIn(values), value) => value.is_none_or(|value| !values.contains(value)),
            (Rule::Exists, value) => value.is_some(),
            (Rule::Missing, value) => value.is_none(),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = BadSelector;

    /// Reads a selector; an empty text selects everything.
    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        requirements(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The parts of a text between commas that are in no parentheses.
fn requirements(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
}

impl FromStr for Requirement {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        let text = text.trim();
        let form = || BadSelector::Form(text.to_owned());
        let (key, rule) = if let Some((head, list)) = text.split_once('(') {
            let list = list.strip_suffix(')').ok_or_else(form)?;
            let values = list.split(',').map(|value| Box::from(value.trim())).collect();
            match head.split_whitespace().collect::<Vec<_>>()[..] {
                [key, "in"] => (key, Rule::In(values)),
                [key, "notin"] => (key, Rule::NotIn(values)),
                _ => return Err(form()),
            }
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Rule::NotIn([value.trim().into()].into()))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Rule::In([value.trim().into()].into()))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Rule::Missing)
        } else {
            (text, Rule::Exists)
        };
        let key = key.trim();
        if key.is_empty() || key.contains([' ', '!', '=', '<', '>', '(', ')']) {
            return Err(form());
        }
        let text = || text.to_owned();
        qualified_name(key).map_err(|rule| BadSelector::Key {
            requirement: text(),
            key: key.to_owned(),
            rule,
        })?;
        for value in rule.values() {
            label_value(value).map_err(|rule| BadSelector::Value {
                requirement: text(),
                value: value.to_string(),
                rule,
            })?;
        }
        Ok(Self { key: key.into(), rule })
    }
}

impl Rule {
    fn values(&self) -> impl Iterator<Item = &str> {
        let values = match self {
            Rule::In(values) | Rule::NotIn(values) => Some(values),
            Rule::Exists | Rule::Missing => None,
        };
        values.into_iter().flatten().map(|value| &**value)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, rule } = self;
        let values = rule.values().collect::<Vec<_>>().join(",");
        match rule {
            Rule::In(of) if of.len() == 1 => write!(f, "{key}={values}"),
            Rule::NotIn(of) if of.len() == 1 => write!(f, "{key}!={values}"),
            Rule::In(_) => write!(f, "{key} in ({values})"),
            Rule::NotIn(_) => write!(f, "{key} notin ({values})"),
            Rule::Exists => write!(f, "{key}"),
            Rule::Missing => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_selected_by_their_labels() {
        let label = |key: &str| match key {
            "app" => Some("web"),
            "example.com/tier" => Some("front"),
            "empty" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            (" app == web , example.com/tier=front ", true),
            ("app=api", false),
            ("app!=api", true),
            ("missing!=x", true),
            ("missing notin (x,y)", true),
            ("app in (api, web),example.com/tier", true),
            ("app in(web)", true),
            ("app notin (api,web)", false),
            ("!missing", true),
            ("! app", false),
            ("empty=", true),
            ("empty in ()", true),
            ("app=", false),
            ("in in (in)", false),
        ] {
            let selector: LabelSelector = text.parse().unwrap();
            assert_eq!(selector.selects(label), expected, "{text}");
            let again = selector.to_string();
            assert_eq!(again.parse().as_ref(), Ok(&selector), "{text} is written as {again}");
        }
    }

    #[test]
    fn what_is_no_selector_says_what_would_be() {
        for text in [
            ",",
            "app,",
            "app in web",
            "app in (web",
            "app in web)",
            "app on (web)",
            "in (web)",
            "app web",
            "app>5",
            "!",
            "=web",
            "!app=web",
        ] {
            let error = text.parse::<LabelSelector>().unwrap_err();
            assert!(matches!(error, BadSelector::Form(_)), "{text}: {error}");
            assert!(error.to_string().contains("accepted are key, !key"), "{error}");
        }
        for (text, said) in [
            ("-app=web", "key '-app': name part"),
            ("a/b/c", "key 'a/b/c': name part"),
            ("Example/app", "key 'Example/app': prefix part"),
            ("app=a=b", "value 'a=b': a valid label"),
            ("app===b", "value '=b': a valid label"),
            ("app in (a,b)(c)", "value 'b)(c': a valid label"),
            ("app=two words", "value 'two words': a valid label"),
        ] {
            let error = text.parse::<LabelSelector>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
