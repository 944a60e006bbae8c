//! Label selectors with the semantics of Kubernetes' `metav1.LabelSelector`.

use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Longest value of a label, and longest name in a label's key, in bytes.
pub const MAX_LABEL: usize = 63;

/// Whether this can be a label's value, which may be empty.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_text(text)
}

/// At most [`MAX_LABEL`] letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
pub(crate) fn is_label_text(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outside = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.iter().all(|b| inside(*b))
        && outside(bytes.first())
        && outside(bytes.last())
}

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// The key is there and its value is one of the list.
    In,
    /// The key is not there, or its value is none of the list.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
}

/// One requirement on one label key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// All requirements must hold; none at all selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// The requirements.
    pub requirements: Vec<Requirement>,
}

impl Selector {
    /// Whether the selector has no requirement and so selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| {
            let value = labels.get(&r.key);
            match r.operator {
                Operator::In => value.is_some_and(|v| r.values.contains(v)),
                Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn one(key: &str, operator: Operator, values: &[&str]) -> Selector {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Selector { requirements: vec![Requirement { key: key.into(), operator, values }] }
    }

    #[test]
    fn the_four_operators() {
        let web = labels(&[("app", "web")]);
        let none = labels(&[]);
        let cases = [
            (one("app", Operator::In, &["web", "api"]), true, false),
            (one("app", Operator::NotIn, &["web"]), false, true),
            (one("app", Operator::Exists, &[]), true, false),
            (one("app", Operator::DoesNotExist, &[]), false, true),
            (Selector::default(), true, true),
        ];
        for (selector, with, without) in cases {
            assert_eq!(selector.matches(&web), with, "{selector:?}");
            assert_eq!(selector.matches(&none), without, "{selector:?}");
        }
    }
}
