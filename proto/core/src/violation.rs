//! Faults in outside input, reported all at once.

use std::fmt;

/// One fault in something a user or another cluster sent.
///
/// Validation collects every violation before it answers, so that a person
/// mends a manifest in one pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Where: a path as `kubectl explain` spells it, `spec.prefixes[1]`.
    pub field: String,
    /// What was found there, as the user wrote it.
    pub value: String,
    /// Why it cannot be taken: one short `CamelCase` word, stable across versions.
    pub reason: &'static str,
    /// What is wrong and what would be accepted, one sentence.
    pub message: String,
}

impl Violation {
    /// A violation at `field`.
    pub fn new(
        field: impl Into<String>,
        value: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), value: value.into(), reason, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.said())
    }
}

impl Violation {
    /// Everything but the field, for those who tell that themselves.
    pub fn said(&self) -> String {
        format!("{:?}: {} ({})", self.value, self.message, self.reason)
    }
}

/// Joins violations for a condition message or a refusal, one after the other.
pub fn summary(violations: &[Violation]) -> String {
    violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
}
